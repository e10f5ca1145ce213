-- Benchmark jobs of a workspace are bounded by quotas, as the engine's rows are.
-- They are many times what people make by hand.

select queue.bound_rows('public.beacon_jobs', 'max_beacon_jobs', 100000);

-- an operator who has a workspace open reads these rows and changes none
select queue.keep_from_operators('public.beacon_jobs', 'public.beacon_outbox', 'public.beacon_executions',
  'public.beacon_receipts');
