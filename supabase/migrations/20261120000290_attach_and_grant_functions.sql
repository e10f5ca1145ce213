-- What a project can switch on later: pg_cron, pg_net with the Vault, Realtime. A migration runs
-- once: what it did not find is attached by a function that may be called at any time. Last grants.

create function public.attach_extensions() returns jsonb
language plpgsql security definer set search_path = '' set lock_timeout = '2s' as $$
declare
  c_policy constant text := 'minutehand: members and guests follow';
  v_part text;
  v_problems jsonb := '{}';
  v_state jsonb := jsonb_build_object('pg_cron', 'absent', 'realtime', 'absent', 'pg_net', case
    when to_regprocedure('net.http_post(text,jsonb,jsonb,jsonb,integer)') is null
      or to_regclass('vault.decrypted_secrets') is null then 'absent'
    when queue.setting('worker_url') is null then 'no_worker' else 'attached' end);
begin
  foreach v_part in array array['pg_cron', 'realtime'] loop
    continue when v_part = 'pg_cron' and to_regprocedure('cron.schedule(text,text,text)') is null
      or v_part = 'realtime' and to_regclass('realtime.messages') is null;
    begin
      v_state := v_state || jsonb_build_object(v_part, 'attached');
      if v_part = 'pg_cron' then -- the history of its runs grows without bound
        execute $do$select cron.schedule('minutehand-tick', '* * * * *',
            'select queue.wake_worker(p_is_due => true)'),
          cron.schedule('minutehand-tidy', '17 3 * * *', 'delete from cron.job_run_details where '
            'end_time < now() - interval ''7 days'' and jobid in ('
            'select jobid from cron.job where jobname like ''minutehand-%'')')
          where (select count(*) from cron.job
            where jobname in ('minutehand-tick', 'minutehand-tidy')) < 2$do$;
      elsif not exists (select from pg_catalog.pg_policies where policyname = c_policy) then
        execute format('create policy %I on realtime.messages for select to authenticated, anon '
          'using (extension = ''broadcast'' and (select queue.may_follow(' -- once a join
          '(select realtime.topic()))))', c_policy);
      end if;
    exception when others then -- one that is refused keeps none of the others away
      v_state := v_state || jsonb_build_object(v_part, 'not_attached');
      v_problems := v_problems || jsonb_build_object(v_part, format('%s (%s)', sqlerrm, sqlstate));
      raise warning 'could not attach %: % (%)', v_part, sqlerrm, sqlstate;
    end;
  end loop;
  return v_state || jsonb_build_object('problems', v_problems);
end $$;
comment on function public.attach_extensions is
  E'Attach optional parts installed after the migrations ran: {pg_cron, pg_net, realtime, '
  'problems}.\n\nEach absent, not_attached or attached; pg_net is no_worker while no worker''s '
  'address is set.';

create function public.connect_worker(p_url text, p_token text) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  c_name constant text := 'minutehand_worker_token';
  v_id uuid;
begin
  if p_url is null then
    delete from queue.settings where name = 'worker_url';
    if to_regclass('vault.secrets') is not null then
      execute 'delete from vault.secrets where name = $1' using c_name;
    end if;
    return public.attach_extensions() || '{"url": null}';
  elsif p_url !~ '^https?://[^\s/]+/' then
    perform queue.refuse(400, 'invalid_argument', 'url must be the address of POST '
      '/api/jobs/worker, as https://jobs.example.com/api/jobs/worker', 'url');
  elsif char_length(coalesce(p_token, '')) < 16 then
    perform queue.refuse(400, 'invalid_argument', 'token must be the worker''s WORKER_SECRET_TOKEN',
      'token');
  elsif public.attach_extensions() ->> 'pg_net' = 'absent' then
    perform queue.refuse(409, 'extension_missing',
      'the database needs the extensions pg_net and supabase_vault', 'Database → Extensions');
  end if;
  execute 'select id from vault.decrypted_secrets where name = $1' into v_id using c_name;
  execute case when v_id is null then 'select vault.create_secret($2, $3)'
    else 'select vault.update_secret($1, $2)' end using v_id, p_token, c_name;
  insert into queue.settings (name, value, updated_at)
  values ('worker_url', to_jsonb(p_url), queue.clock())
  on conflict (name) do update set value = excluded.value, updated_at = excluded.updated_at;
  return public.attach_extensions() || jsonb_build_object('url', p_url);
end $$;
comment on function public.connect_worker is
  'Let the database invoke a worker behind HTTPS at each arrival, by pg_net, and every minute, by '
  'pg_cron; without an address, no longer. For operators.';

select queue.allow('service_role', 'public.attach_extensions', 'public.connect_worker');
select public.attach_extensions();

-- What the migrations leave, as the statements that make it so: owners, grants, whose rights apply,
-- what is on. They are kept at the end of this file as the setting facts, for doctor to compare.
-- undo: the statement that takes one back; null where more than is recorded does no harm.
create type queue.fact as (object text, statement text, undo text);

create function queue.facts_now() returns setof queue.fact language plpgsql stable as $$
declare
  v_granted constant queue.fact[] := array(
    with ours (kind, name, owner, acl) as (
      select 'table', c.oid::regclass::text, c.relowner::regrole, c.relacl
      from pg_catalog.pg_class as c
      where c.relkind in ('r', 'v') and (c.relnamespace = 'queue'::regnamespace or c.oid in (
        'public.jobs'::regclass, 'public.job_logs'::regclass, 'public.job_events'::regclass))
      union all select 'function', p.oid::regprocedure::text, p.proowner,
        coalesce(p.proacl, acldefault('f', p.proowner))
      from pg_catalog.pg_proc as p where p.prokind = 'f'
        and (p.pronamespace = 'queue'::regnamespace or p.pronamespace = 'public'::regnamespace
          and strpos(p.prosrc, 'queue'::regnamespace || '.') > 0)
      union all select 'schema', n.nspname, null, n.nspacl from pg_catalog.pg_namespace as n
      where n.oid in ('public'::regnamespace, 'queue'::regnamespace))
    select row(o.name, format('alter %s %s owner to %s', o.kind, o.name, o.owner), null)::queue.fact
    from ours as o where o.owner is not null
    union select row(o.name, format('grant %s to %s', g.what, r.role),
      format('revoke %s from %s', g.what, r.role))::queue.fact
    from ours as o cross join lateral aclexplode(o.acl) as a cross join lateral (
      select format('%s on %s %s', lower(a.privilege_type), o.kind, o.name) as what) as g
    join unnest('{public,anon,authenticated,service_role,job_worker}'::text[]) as r (role)
      on a.grantee = case r.role when 'public' then 0 else to_regrole(r.role)::oid end);
begin
  return query with functions as (
    select p.*, p.oid::regprocedure::text as name from pg_catalog.pg_proc as p
    where p.oid::regprocedure::text in (select g.object from unnest(v_granted) as g)),
  tables as (
    select c.*, c.oid::regclass::text as name from pg_catalog.pg_class as c
    where c.oid::regclass::text in (select g.object from unnest(v_granted) as g))
  select * from unnest(v_granted)
  union all select f.name, format('alter function %s security definer', f.name),
    format('alter function %s security invoker', f.name)
  from functions as f where f.prosecdef
  union all
  select f.name, format('alter function %s set %s', f.name, replace(c, '=""', ' = ''''')), null
  from functions as f cross join unnest(f.proconfig) as c where c like 'search_path=%'
  union all select t.name, format('alter table %s enable row level security', t.name), null
  from tables as t where t.relrowsecurity
  union all select t.name, format('alter table %s enable trigger %I', t.name, g.tgname), null
  from tables as t join pg_catalog.pg_trigger as g on g.tgrelid = t.oid
  where not g.tgisinternal and g.tgenabled <> 'D'
  union all select t.name, pg_get_indexdef(i.indexrelid), null
  from tables as t join pg_catalog.pg_index as i on i.indrelid = t.oid
  union all
  select t.name, format('create policy %I on %s for %s to %s', p.policyname, t.name, p.cmd,
        array_to_string(p.roles, ', ')) || coalesce(' using (' || p.qual || ')', '')
      || coalesce(' with check (' || p.with_check || ')', ''),
    format('drop policy %I on %s', p.policyname, t.name)
  from tables as t join pg_catalog.pg_policies as p
    on to_regclass(format('%I.%I', p.schemaname, p.tablename)) = t.oid
  union all
  select 'job_worker', 'alter role job_worker ' || a.may, 'alter role job_worker no' || a.may
  from pg_catalog.pg_roles as r cross join lateral (values ('superuser', r.rolsuper),
    ('login', r.rolcanlogin), ('bypassrls', r.rolbypassrls), ('createrole', r.rolcreaterole))
    as a (may, is_on) where r.rolname = 'job_worker' and a.is_on
  union all select 'job_worker', format('grant %s to %s', m.roleid::regrole, m.member::regrole),
    format('revoke %s from %s', m.roleid::regrole, m.member::regrole)
  from pg_catalog.pg_auth_members as m where 'job_worker'::regrole in (m.member, m.roleid);
end $$;

-- For doctor: what is no longer as the migrations left it, with the statement that puts it right.
create function queue.differences() returns table (difference text, fix text)
language sql stable as $$
  with recorded as materialized (
    select f.* from jsonb_populate_recordset(null::queue.fact, queue.setting('facts')) as f)
  select case when n.statement is null then 'undone: ' || f.statement
    else 'not by the migrations: ' || n.statement end, coalesce(f.statement, n.undo)
  from recorded as f full join queue.facts_now() as n on n.statement = f.statement
  where n.statement is null
    or f.object is null and n.undo is not null and n.object in (select o.object from recorded as o)
$$;

-- The engine's functions are called by those in public alone. What is made is callable by all: this
-- ends it here, and later migrations close what they add themselves (queue.allow).
revoke execute on all functions in schema queue from public;
grant execute on function queue.my_workspaces, queue.is_member, queue.is_manager, queue.is_operator,
  queue.caller, queue.clock, queue.new_id -- the last two for defaults of rows that callers insert
  to authenticated, service_role;
grant execute on function queue.may_follow to anon, authenticated; -- in policies
revoke all on all tables in schema queue from public, anon, authenticated, service_role;
-- what the view public.job_events reads with its reader's rights: their policies decide
grant select on queue.job_events to authenticated, service_role;
grant select (worker, worker_id) on queue.workers to authenticated, service_role;

do $$
declare
  v_statement text;
begin
  for v_statement in
    select format('alter table %s enable row level security', c.oid::regclass)
    from pg_catalog.pg_class as c where c.relnamespace = 'queue'::regnamespace and c.relkind = 'r'
    union all -- no function here finds a name by its caller's search path
    select format('alter function %s set search_path = %L', p.oid::regprocedure, '')
    from pg_catalog.pg_proc as p
    where p.pronamespace = 'queue'::regnamespace and p.prokind = 'f' and not exists (
      select from unnest(p.proconfig) as c where c like 'search_path=%') loop
    execute v_statement;
  end loop;
end $$;

insert into queue.settings (name, value)
select 'facts', jsonb_agg(distinct to_jsonb(f)) from queue.facts_now() as f;
