-- The guide's stress tests create a thousand plans per minute, so guests have no limit on the local
-- stack. Only a local stack has recorded its base as hosted/….
update queue.settings set value = 'null', updated_at = queue.clock()
where name = 'plan_guest_plans_per_minute'
  and exists (select from supabase_migrations.seed_files where path like 'hosted/%');
