-- Queries of `minutehand doctor` in addition to the engine's findings. If a query returns a row,
-- its first row is a fault with verdict, detail and fix.

-- check locks
-- find database sessions with locks that prevent people and workers from writing jobs
select 'fail', format('%s of process %s has been locked for %s s%s',
    string_agg(distinct c.oid::regclass::text, ', '), a.pid,
    round(extract(epoch from clock_timestamp() - a.xact_start)),
    case when a.state = 'idle in transaction' then ', by a transaction that does nothing'
      else '' end),
  format('select pg_terminate_backend(%s)  -- ends this transaction of %s', a.pid, a.usename)
from pg_locks as l
join pg_class as c on c.oid = l.relation
join pg_stat_activity as a on a.pid = l.pid
where l.granted
  and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  and l.database = (select oid from pg_database where datname = current_database())
  and (c.relnamespace = 'queue'::regnamespace
    or c.oid in (to_regclass('public.jobs'), to_regclass('public.job_logs')))
  and a.xact_start < clock_timestamp() - interval '2 s'
group by a.pid, a.xact_start, a.state, a.usename;

-- check roles
-- find settings of `alter role … set` and `alter database … set` that break sessions of these roles
with settings as (
  select r.rolname as role, d.datname as base, split_part(c.setting, '=', 1) as name,
    substr(c.setting, strpos(c.setting, '=') + 1) as value
  from pg_db_role_setting as s left join pg_roles as r on r.oid = s.setrole
  left join pg_database as d on d.oid = s.setdatabase cross join unnest(s.setconfig) as c (setting)
  where (s.setdatabase = 0 or d.datname = current_database()) and (s.setrole = 0 or r.rolname in
    ('anon', 'authenticated', 'service_role', 'authenticator', 'job_worker', 'postgres'))
),
faults as (
  select *, case
    when name = 'default_transaction_read_only' and value::boolean then 'it cannot write'
    when name = 'default_transaction_isolation' and lower(value) <> 'read committed'
      then 'leases are rejected'
    when name = 'session_replication_role' and lower(value) <> 'origin' then 'no trigger runs'
    when name = 'row_security' and not value::boolean then 'it cannot read its own rows'
    when name in ('statement_timeout', 'transaction_timeout', 'lock_timeout',
        'idle_in_transaction_session_timeout')
      and case when value ~ '^[0-9]+$' then value || 'ms' else value end::interval
        between '1 ms' and '900 ms' then 'its calls are stopped too early'
    when name = 'statement_timeout' and role in ('anon', 'authenticated')
      and case when value ~ '^[0-9]+$' then value || 'ms' else value end::interval
        not between '1 ms' and '60 s' then 'a call may occupy a connection for long'
    end as harm
  from settings
)
select case harm when 'a call may occupy a connection for long' then 'warn' else 'fail' end,
  format('%s has %s = %s: %s', coalesce(role, 'every role'), name, value, harm),
  case when role in ('anon', 'authenticated', 'authenticator') and name = 'statement_timeout'
      and base is null then format('alter role %I set statement_timeout = ''8s''', role)
    else case name when 'default_transaction_read_only' then 'set transaction read write; '
        else '' end
      || case when role is null then format('alter database %I reset %I', base, name)
        else format('alter role %I %sreset %I', role,
          case when base is null then '' else format('in database %I ', base) end, name) end
  end
from faults where harm is not null
union all
-- the rights of roles as Supabase creates them
select 'fail', format('%s bypasses row level security: it reads the rows of every tenant', rolname),
  format('alter role %I nobypassrls', rolname)
from pg_roles where rolname in ('anon', 'authenticated') and rolbypassrls
union all
select 'fail', 'service_role does not bypass row level security, so it reads no rows',
  'alter role service_role bypassrls'
from pg_roles where rolname = 'service_role' and not rolbypassrls
union all
select 'fail', format('%s is a member of %s, which bypasses row level security',
    m.member::regrole, m.roleid::regrole),
  format('revoke %s from %s', m.roleid::regrole, m.member::regrole)
from pg_auth_members as m
where m.member in (to_regrole('anon'), to_regrole('authenticated'))
  and exists (select from pg_roles as r
    where (r.rolsuper or r.rolbypassrls) and pg_has_role(m.roleid, r.oid, 'member'))
order by 1;

-- check project
-- find faults in objects of the project
select 'warn', 'no tenant has a member: no one sees a job',
  'add people to your memberships, with a role that queue.tenant_members knows; with our '
    'workspaces to public.workspace_members'
where not exists (select from queue.tenant_members)
union all
select 'fail', format('%s shows every tenant''s rows: its row level security is off',
    c.oid::regclass), format('alter table %s enable row level security', c.oid::regclass)
from pg_class as c join pg_attribute as a on a.attrelid = c.oid
where c.relkind = 'r' and not c.relrowsecurity
  and (a.attname = 'workspace_id' or a.attname = 'id' and c.oid = to_regclass('public.workspaces'))
  and has_table_privilege('authenticated', c.oid, 'select');

-- check extensions
-- find extensions that the project enabled after its migrations ran
select 'fail', 'Realtime is enabled but not attached to the engine: no one can follow a job live',
  'select public.attach_extensions()  -- in the SQL editor'
where to_regclass('realtime.messages') is not null and not exists (
  select from pg_policies where policyname = 'minutehand: members and guests follow')
union all
select 'fail', format('a revoked worker key may call %s', oid::regprocedure),
  format('revoke execute on function %s from job_worker'
    '  -- or let it begin with: perform queue.refuse_revoked();', oid::regprocedure)
from pg_proc
where proacl::text ~ '[{,]job_worker=' and strpos(prosrc, 'refuse_revoked();') = 0
union all
select 'fail', format('the worker may not use the schema of %s', oid::regproc),
  format('grant usage on schema %s to job_worker', pronamespace::regnamespace)
from pg_proc where proacl::text ~ '[{,]job_worker='
  and not has_schema_privilege('job_worker', pronamespace, 'usage');

-- check cron
select 'fail', 'pg_cron does not run minutehand-tick and minutehand-tidy',
  'select cron.unschedule(jobname) from cron.job where jobname like ''minutehand-%'';'
  ' select public.attach_extensions()'
from cron.job
having count(*) filter (
  where jobname in ('minutehand-tick', 'minutehand-tidy') and active
) < 2;

-- check wake-up
select 'fail', format('pg_net or the Vault is missing: no job wakes the worker at %s', value),
  'create extension if not exists pg_net; create extension if not exists supabase_vault'
  '  -- or under Database → Extensions'
from queue.settings
where name = 'worker_url' and (to_regclass('vault.decrypted_secrets') is null
  or to_regprocedure('net.http_post(text,jsonb,jsonb,jsonb,integer)') is null);

-- check publication
select 'warn', format('supabase_realtime lacks %s', string_agg(name, ', ')),
  format(case when exists (select from pg_publication where pubname = 'supabase_realtime')
    then 'alter publication supabase_realtime add table %s'
    else 'create publication supabase_realtime for table %s' end, string_agg(name, ', '))
from (values ('public.jobs'), ('public.job_logs')) as tables (name)
where not exists (select from pg_publication_tables
  where pubname = 'supabase_realtime' and schemaname || '.' || tablename = name)
having count(*) > 0
union all
select 'warn', 'supabase_realtime does not publish every change',
  'alter publication supabase_realtime set (publish = ''insert, update, delete, truncate'')'
from pg_publication where pubname = 'supabase_realtime' and not (pubinsert and pubupdate
  and pubdelete);
