-- Guests have no limit on the local stack, because stress tests create a thousand plans per minute.
-- Only the local stack records files named hosted/… in supabase_migrations.seed_files.
update queue.settings set value = 'null', updated_at = queue.clock()
where name = 'plan_guest_plans_per_minute'
  and exists (select from supabase_migrations.seed_files where path like 'hosted/%');
