-- Trainings and the versions of their procedures a workspace may have: quotas like the engine's, told by workspace_limits and refused by their names.
-- They are many times what people make by hand.

select queue.bound_rows(q.relation, q.name, q.most)
from (values
  ('public.trainings'::regclass, 'max_trainings', 10000),
  ('public.training_procedures'::regclass, 'max_training_procedures', 100000)
) as q (relation, name, most);
