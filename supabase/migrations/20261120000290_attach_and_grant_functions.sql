-- What a project can switch on later: pg_cron, pg_net with the Vault, Realtime. A migration runs
-- once, so what it did not find then is attached by a function that may be called again at any
-- time. And the last grants.

-- Call the worker by pg_net once connect_worker has named it. On AWS a hint only: an enqueue
-- through the API wakes the worker itself, and the tick of each minute is the safety net. Without
-- AWS this is the schedule.
create function queue.invoke_worker() returns void language plpgsql as $$
declare
  v_url constant text := queue.setting('worker_url') #>> '{}';
begin
  if v_url is not null then
    execute $do$select net.http_post(url := $1, body := '{}'::jsonb, params := '{}'::jsonb,
        headers := jsonb_build_object('Authorization', 'Bearer ' || s.decrypted_secret,
          'Content-Type', 'application/json'), timeout_milliseconds := 2000)
      from vault.decrypted_secrets as s where s.name = 'minutehand_worker_token'$do$ using v_url;
  end if;
exception when others then -- a hint that fails must not fail the enqueue
  raise warning 'the worker could not be called: % (%)', sqlerrm, sqlstate;
end $$;

create function public.attach_extensions() returns jsonb
language plpgsql security definer set search_path = ''
set lock_timeout = '2s' as $$
declare
  v_part text;
  v_problems jsonb := '{}';
  v_state jsonb := jsonb_build_object('pg_cron', 'absent', 'realtime', 'absent', 'pg_net', case
    when to_regprocedure('net.http_post(text,jsonb,jsonb,jsonb,integer)') is null
      or to_regclass('vault.decrypted_secrets') is null then 'absent'
    when queue.setting('worker_url') is null then 'no_worker' else 'attached' end);
begin
  foreach v_part in array array['pg_cron', 'realtime'] loop
    begin
      if v_part = 'pg_cron' and to_regprocedure('cron.schedule(text,text,text)') is not null then
        execute $do$select cron.schedule('minutehand-tick', '* * * * *',
          'select queue.invoke_worker()'),
          -- the history of its runs grows without bound; that of other schedules is theirs
          cron.schedule('minutehand-tidy', '17 3 * * *',
            'delete from cron.job_run_details where end_time < now() - '
            'interval ''7 days'' and jobid in (select jobid from cron.job where jobname like ''minutehand-%'')')
          where (select count(*) from cron.job where jobname in ('minutehand-tick',
            'minutehand-tidy')) < 2$do$;
        v_state := v_state || '{"pg_cron": "attached"}';
      elsif v_part = 'realtime' and to_regclass('realtime.messages') is not null then
        if not exists (select from pg_catalog.pg_policies where schemaname = 'realtime'
          and tablename = 'messages'
            and policyname = 'minutehand: members and guests follow') then
          -- one policy, so that each join evaluates the function once
          create policy "minutehand: members and guests follow"
            on realtime.messages for select to authenticated, anon
            using (extension = 'broadcast'
              and (select queue.may_follow((select realtime.topic()))));
        end if;
        v_state := v_state || '{"realtime": "attached"}';
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
  E'Attach optional parts installed after the migrations ran: {pg_cron, pg_net, realtime, problems}.\n\nEach absent, '
  'not_attached or attached; pg_net is no_worker while no worker''s address is set.';

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
    perform queue.refuse(400, 'invalid_argument',
      'url must be the address of POST /api/jobs/worker, as https://jobs.example.com/api/jobs/worker', 'url');
  elsif char_length(coalesce(p_token, '')) < 16 then
    perform queue.refuse(400, 'invalid_argument', 'token must be the worker''s WORKER_SECRET_TOKEN',
      'token');
  elsif public.attach_extensions() ->> 'pg_net' = 'absent' then
    perform queue.refuse(409, 'extension_missing',
      'the database needs the extensions pg_net and supabase_vault',
      'Database → Extensions');
  end if;
  execute 'select id from vault.decrypted_secrets where name = $1' into v_id using c_name;
  if v_id is null then
    execute 'select vault.create_secret($1, $2)' using p_token, c_name;
  else
    execute 'select vault.update_secret($1, $2)' using v_id, p_token;
  end if;
  insert into queue.settings (name, value, updated_at)
  values ('worker_url', to_jsonb(p_url), queue.clock())
  on conflict (name) do update set value = excluded.value, updated_at = excluded.updated_at;
  return public.attach_extensions() || jsonb_build_object('url', p_url);
end $$;
comment on function public.connect_worker is
  'Let the database invoke a worker behind HTTPS at each arrival, by pg_net, and every minute, by pg_cron; '
  'without an address, no longer. For operators.';

select queue.allow('job_worker, service_role', 'public.attach_extensions');
select queue.allow('service_role', 'public.connect_worker');

select public.attach_extensions();

-- What the migrations leave, as facts: whose rights apply, who may what, what is on. Each has the
-- statement that makes it true again, or (undo) untrue. They are recorded below, and again at the
-- end of a release, for doctor to compare.
create table queue.facts (
  object text not null,
  fact text primary key,
  mend text not null,
  undo text -- null where more than is recorded does no harm
);

create function queue.facts_of_functions() returns setof queue.facts language sql stable as $$
  with ours as (
    select p.*, p.oid::regprocedure::text as name from pg_catalog.pg_proc as p
    where p.prokind = 'f' and (p.pronamespace = 'queue'::regnamespace
      or p.pronamespace = 'public'::regnamespace
        and strpos(p.prosrc, 'queue'::regnamespace || '.') > 0))
  select o.name, format('%s may execute %s', r.role, o.name),
    format('grant execute on function %s to %s', o.name, r.role),
    format('revoke execute on function %s from %s', o.name, r.role)
  from ours as o
  cross join unnest('{public,anon,authenticated,service_role,job_worker}'::text[]) as r (role)
  where has_function_privilege(r.role, o.oid, 'execute')
  union all
  select o.name, format('%s runs with the rights of its owner', o.name),
    format('alter function %s security definer', o.name),
    format('alter function %s security invoker', o.name)
  from ours as o where o.prosecdef
  union all
  select o.name, format('%s runs with %s', o.name, c.setting),
    format('alter function %s set %s', o.name, replace(c.setting, '=""', ' = ''''')), null
  from ours as o
  cross join unnest(o.proconfig) as c (setting)
  where c.setting like 'search_path=%'
  union all
  select o.name, format('%s is owned by %s', o.name, o.proowner::regrole),
    format('alter function %s owner to %s', o.name, o.proowner::regrole), null
  from ours as o
$$;

create function queue.facts_of_tables() returns setof queue.facts language sql stable as $$
  with ours as (
    select c.oid, c.oid::regclass::text as name, c.relowner, c.relrowsecurity
    from pg_catalog.pg_class as c
    where c.relkind in ('r', 'v') and (c.relnamespace = 'queue'::regnamespace
      or c.oid in ('public.jobs'::regclass, 'public.job_logs'::regclass,
        'public.job_events'::regclass)))
  select o.name, format('%s may %s %s', r.role, p.privilege, o.name),
    format('grant %s on %s to %s', p.privilege, o.name, r.role),
    format('revoke %s on %s from %s', p.privilege, o.name, r.role)
  from ours as o
  cross join unnest('{anon,authenticated,service_role,job_worker}'::text[]) as r (role)
  cross join unnest('{select,insert,update,delete,truncate}'::text[]) as p (privilege)
  where has_table_privilege(r.role, o.oid, p.privilege)
  union all
  select o.name, format('row level security of %s is on', o.name),
    format('alter table %s enable row level security', o.name), null
  from ours as o where o.relrowsecurity
  union all
  select o.name, format('%s is owned by %s', o.name, o.relowner::regrole),
    format('alter table %s owner to %s', o.name, o.relowner::regrole), null
  from ours as o
  union all
  select o.name, format('the trigger %s of %s is on', t.tgname, o.name),
    format('alter table %s enable trigger user', o.name), null
  from ours as o
  join pg_catalog.pg_trigger as t on t.tgrelid = o.oid
  where not t.tgisinternal and t.tgenabled <> 'D'
  union all
  select o.name, format('the index %s is there', i.indexrelid::regclass),
    pg_get_indexdef(i.indexrelid), null
  from ours as o join pg_catalog.pg_index as i on i.indrelid = o.oid
$$;

create function queue.facts_of_access() returns setof queue.facts language sql stable as $$
  select s.name::text, format('%s may use the schema %s', r.role, s.name),
    format('grant usage on schema %s to %s', s.name, r.role),
    format('revoke usage on schema %s from %s', s.name, r.role)
  from unnest(array['public'::regnamespace, 'queue'::regnamespace]) as s (name)
  cross join unnest('{anon,authenticated,service_role,job_worker}'::text[]) as r (role)
  where has_schema_privilege(r.role, s.name, 'usage')
  union all
  select t.name, format('the policy %s of %s is there', p.policyname, t.name),
    format('create policy %I on %s for %s to %s', p.policyname, t.name, p.cmd,
        array_to_string(p.roles, ', ')) || coalesce(' using (' || p.qual || ')', '')
      || coalesce(' with check (' || p.with_check || ')', ''),
    format('drop policy %I on %s', p.policyname, t.name)
  from pg_catalog.pg_policies as p
  join pg_catalog.pg_class as c on c.oid = format('%I.%I', p.schemaname, p.tablename)::regclass
  cross join lateral (select c.oid::regclass::text as name) as t
  where c.relnamespace = 'queue'::regnamespace
    or c.oid in ('public.jobs'::regclass, 'public.job_logs'::regclass)
  union all
  select 'job_worker', format('job_worker has the attribute %s', a.name),
    format('alter role job_worker %s', a.name), format('alter role job_worker no%s', a.name)
  from pg_catalog.pg_roles as r
  cross join lateral (values ('superuser', r.rolsuper), ('bypassrls', r.rolbypassrls),
    ('login', r.rolcanlogin), ('createrole', r.rolcreaterole)) as a (name, has)
  where r.rolname = 'job_worker' and a.has
  union all
  select 'job_worker', format('%s may become %s', m.member::regrole, m.roleid::regrole),
    format('grant %s to %s', m.roleid::regrole, m.member::regrole),
    format('revoke %s from %s', m.roleid::regrole, m.member::regrole)
  from pg_catalog.pg_auth_members as m where 'job_worker'::regrole in (m.member, m.roleid)
$$;

create function queue.facts_now() returns setof queue.facts language sql stable as $$
  select * from queue.facts_of_access()
  union select * from queue.facts_of_functions()
  union select * from queue.facts_of_tables()
$$;

-- What is no longer as the migrations left it, with the statement that puts it right.
create function queue.differences() returns table (difference text, fix text)
language sql stable as $$
  with present as materialized (select * from queue.facts_now())
  select 'no longer true: ' || f.fact, f.mend from queue.facts as f
  where f.fact not in (select n.fact from present as n)
  union all
  select 'not by the migrations: ' || n.fact, n.undo from present as n
  where n.undo is not null and n.fact not in (select f.fact from queue.facts as f)
    and n.object in (select f.object from queue.facts as f)
$$;

-- The engine's functions are called by functions in public alone, and its tables by its functions.
-- What is made is callable by public: this ends it here, and later migrations close what they add
-- themselves (queue.allow).
revoke execute on all functions in schema queue from public;
grant execute on function queue.my_workspaces, queue.is_member, queue.is_manager, queue.is_operator,
  queue.caller,
  queue.clock, queue.new_id -- the last two for the defaults of rows that callers insert
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
  for v_statement in select format('alter table %s enable row level security', c.oid::regclass)
      from pg_catalog.pg_class as c where c.relnamespace = 'queue'::regnamespace and c.relkind = 'r'
    union all -- no function here finds a name by its caller's search path
    select format('alter function %s set search_path = %L', p.oid::regprocedure, '')
      from pg_catalog.pg_proc as p where p.pronamespace = 'queue'::regnamespace and p.prokind = 'f'
      and not exists (select from unnest(p.proconfig) as c where c like 'search_path=%')
  loop
    execute v_statement;
  end loop;
end $$;

insert into queue.facts select * from queue.facts_now();
