-- The guide's stress tests create a thousand plans a minute: guests have no limit on the local
-- stack, whose base alone
-- is recorded as hosted/….
update queue.settings set value = 'null', updated_at = queue.clock()
where name = 'plan_guest_plans_per_minute'
  and exists (select from supabase_migrations.seed_files where path like 'hosted/%');
