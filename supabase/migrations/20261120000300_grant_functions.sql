-- The engine's functions are called by functions in public alone, and its tables by its functions. What is made is
-- callable by public: this ends it here, and later migrations close what they add themselves (queue.allow).

revoke execute on all functions in schema queue from public;
grant execute on function queue.my_workspaces, queue.is_member, queue.is_manager, queue.is_operator,
  queue.clock, queue.new_id -- the last two for the defaults of rows that callers insert
  to authenticated, service_role;
grant execute on function queue.may_follow to anon, authenticated; -- in policies
revoke all on all tables in schema queue from public, anon, authenticated, service_role;
-- what the view public.job_events reads with its reader's rights: their policies decide
grant select on queue.job_events, queue.workers to authenticated, service_role;

do $$
declare
  v_statement text;
begin
  for v_statement in
    select format('alter table %s enable row level security', c.oid::regclass) from pg_catalog.pg_class as c
    where c.relnamespace = 'queue'::regnamespace and c.relkind = 'r'
    union all -- no function here finds a name by its caller's search path
    select format('alter function %s set search_path = %L', p.oid::regprocedure, '') from pg_catalog.pg_proc as p
    where p.pronamespace = 'queue'::regnamespace and p.prokind = 'f'
      and not exists (select from unnest(p.proconfig) as c where c like 'search_path=%')
  loop
    execute v_statement;
  end loop;
end;
$$;
