-- Plans of a workspace are bounded by quotas, as the engine's rows are.
-- They are many times what people make by hand.

select queue.bound_rows(q.relation, q.name, q.most)
from (values
  ('public.plans'::regclass, 'max_plans', 10000)
) as q (relation, name, most);
