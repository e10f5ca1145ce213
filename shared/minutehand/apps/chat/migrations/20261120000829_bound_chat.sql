-- People's conversations and messages a workspace may have: quotas like the engine's, told by workspace_limits and refused by their names.
-- They are many times what people make by hand.

select queue.bound_rows(q.relation, q.name, q.most)
from (values
  ('public.chat_conversations'::regclass, 'max_chat_conversations', 50000),
  ('public.chat_messages'::regclass, 'max_chat_messages', 200000)
) as q (relation, name, most);
