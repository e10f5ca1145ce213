-- Ids as people type them when they try the chat on the local stack, whose base alone is recorded as
-- hosted/…; elsewhere, as on a branch that runs seeds too, they must be harder to guess.
update queue.settings set value = '8', updated_at = queue.clock()
where name = 'chat_session_id_min_characters'
  and exists (select from supabase_migrations.seed_files where path like 'hosted/%');
