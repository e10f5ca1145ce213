-- Benchmark jobs of a workspace are bounded by quotas, as the engine's rows are.
-- They are many times what people make by hand.

select queue.bound_rows('public.beacon_jobs', 'max_beacon_jobs', 100000);
