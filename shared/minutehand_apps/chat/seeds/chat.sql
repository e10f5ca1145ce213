-- Ids as people type them when they try the chat on the local stack, whose base alone is recorded as hosted/…;
-- elsewhere, as on a branch that runs seeds too, they must be harder to guess. All of its guests have one address.
update queue.settings as s set value = to_jsonb(v.value), updated_at = queue.clock()
from (values ('chat_session_id_min_characters', 16), ('guest_address_percent', 100),
  ('chat_guest_messages_per_minute', 10000), ('chat_guest_sessions_per_minute', 10000),
  ('chat_guest_messages_per_day', 1000000), ('chat_guest_sessions_per_day', 1000000)) as v (name, value)
where s.name = v.name and exists (select from supabase_migrations.seed_files where path like 'hosted/%');
