-- Trainings and the versions of their procedures of a workspace are bounded by quotas, as the engine's rows are.
-- They are many times what people make by hand.

select queue.bound_rows(q.relation, q.name, q.most)
from (values
  ('public.trainings'::regclass, 'max_trainings', 10000),
  ('public.training_procedures'::regclass, 'max_training_procedures', 100000)
) as q (relation, name, most);
