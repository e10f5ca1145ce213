-- People's conversations and messages of a workspace are bounded by quotas, as the engine's rows are.
-- They are many times what people make by hand.

select queue.bound_rows(q.relation, q.name, q.most)
from (values
  ('public.chat_conversations'::regclass, 'max_chat_conversations', 50000),
  ('public.chat_messages'::regclass, 'max_chat_messages', 200000)
) as q (relation, name, most);
