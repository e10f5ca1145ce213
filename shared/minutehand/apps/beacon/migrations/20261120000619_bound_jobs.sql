-- Benchmark jobs a workspace may have: quotas like the engine's, told by workspace_limits and refused by their names.
-- They are many times what people make by hand.

select queue.bound_rows(q.relation, q.name, q.most)
from (values
  ('public.beacon_jobs'::regclass, 'max_beacon_jobs', 100000)
) as q (relation, name, most);
