-- Ids as people type them when they try the chat on the local stack, whose base alone is
-- recorded as hosted/…;
-- elsewhere, as on a branch that runs seeds too, they must be hard to guess.
update queue.settings as s set value = v.value, updated_at = queue.clock()
from (values ('chat_session_id_min_characters', '1'::jsonb),
  ('chat_guest_messages_per_minute', 'null')) as v (name, value)
where s.name = v.name and exists (select from supabase_migrations.seed_files
  where path like 'hosted/%');
