-- Lock all tables of the engine in one statement, or lock none of them. Calls of the engine's
-- functions lock tables in different orders. If an upgrade locked some tables of the engine and
-- then waited for the other tables, the upgrade and a call could deadlock. The lock timeout of 0.3
-- seconds ends a deadlock sooner than Postgres does, which detects a deadlock only after
-- deadlock_timeout.
do $$
declare
  c_timeout constant text := current_setting('lock_timeout');
  c_tables constant text := (
    select string_agg(c.oid::regclass::text, ', ' order by c.oid)
    from pg_class as c
    where c.relkind in ('r', 'p')
      and not c.relispartition
      and (
        c.relnamespace = 'queue'::regnamespace
        or c.relnamespace = 'public'::regnamespace and c.relname = any ('{tables}')
      )
  );
begin
  perform pg_sleep(0.2); -- calls that began before they were paused reach their first table
  for v_try in 1 .. 300 loop
    begin
      perform set_config('lock_timeout', '300ms', true);
      execute format('lock table %s in access exclusive mode', c_tables);
      perform set_config('lock_timeout', c_timeout, true);
      return;
    exception when lock_not_available or deadlock_detected then
      perform pg_sleep(0.1);
    end;
  end loop;
  raise lock_not_available
    using message = 'other transactions have used tables of Minutehand for two minutes',
      hint = 'Nothing was changed. End long transactions, then run this again.';
end;
$$;
