-- What doctor asks the database of itself, beside its findings. The first row of a query, if there
-- is one, is a fault: verdict, detail and fix.

-- check locks
-- sessions that keep people and workers from writing jobs; pg_locks can be read while they do
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
    or c.oid in ('public.jobs'::regclass, 'public.job_logs'::regclass))
  and a.xact_start < clock_timestamp() - interval '2 s'
group by a.pid, a.xact_start, a.state, a.usename;

-- check roles
-- what `alter role … set` and `alter database … set` do to every session of these roles
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
    when name = 'default_transaction_read_only' and value::boolean then 'it may write nothing'
    when name = 'default_transaction_isolation' and lower(value) <> 'read committed'
      then 'a lease is refused'
    when name = 'session_replication_role' and lower(value) <> 'origin' then 'no trigger runs'
    when name = 'row_security' and not value::boolean then 'reading what is its own is refused'
    when name in ('statement_timeout', 'transaction_timeout', 'lock_timeout',
        'idle_in_transaction_session_timeout')
      and case when value ~ '^[0-9]+$' then value || 'ms' else value end::interval
        between '1 ms' and '900 ms' then 'its calls are ended before they are done'
    end as harm
  from settings
),
-- who may use the engine's schema, and what is made there; a function works with its owner's rights
opened as (
  select case a.grantee when 0 then 'public' else a.grantee::regrole::text end as role,
    lower(a.privilege_type) as may
  from pg_namespace as n cross join aclexplode(n.nspacl) as a where n.oid = 'queue'::regnamespace
),
-- of the engine's schema alone: who opens what is made where clients look, may want that
defaults as (
  select case a.grantee when 0 then 'public' else a.grantee::regrole::text end as role,
    pg_get_userbyid(d.defaclrole) as maker, case d.defaclobjtype when 'r' then 'tables'
      when 'S' then 'sequences' when 'f' then 'functions' else 'types' end as kind
  from pg_default_acl as d cross join aclexplode(d.defaclacl) as a
  where d.defaclnamespace = 'queue'::regnamespace
),
ours as (
  select case c.relkind when 'v' then 'view' else 'table' end as kind,
    c.oid::regclass::text as name, c.relowner::regrole as owner
  from pg_class as c where c.relkind in ('r', 'v') and (c.relnamespace = 'queue'::regnamespace
    or c.oid in ('public.jobs'::regclass, 'public.job_logs'::regclass))
  union all
  select 'function', p.oid::regprocedure::text, p.proowner::regrole from pg_proc as p
  where p.prokind = 'f' and (p.pronamespace = 'queue'::regnamespace
    or p.pronamespace = 'public'::regnamespace
    and (p.proacl::text ~ '[{,]job_worker=' or p.proname in ('enqueue_job', 'enqueue_jobs')))
)
select 'fail', format('%s has %s = %s: %s', coalesce(role, 'every role'), name, value, harm),
  case when role in ('anon', 'authenticated', 'authenticator') and name = 'statement_timeout'
      and base is null then format('alter role %I set statement_timeout = ''8s''', role)
    when role is null then format('alter database %I reset %I', base, name)
    else format('alter role %I %sreset %I', role,
      case when base is null then '' else format('in database %I ', base) end, name) end
from faults where harm is not null
union all
select 'fail', format('%s may use the schema of the engine', role),
  format('revoke %s on schema queue from %s', may, role)
from opened where role in ('public', 'anon', 'authenticated')
union all
select 'warn', format('what is made in the schema of the engine will be open to %s', role),
  format('alter default privileges for role %I in schema queue revoke all on %s from %s',
    maker, kind, role)
from defaults where role in ('public', 'anon', 'authenticated')
union all
select 'fail', format('%s belongs to %s, and has not the rights of %s', o.name, o.owner,
  n.nspowner::regrole), format('alter %s %s owner to %s', o.kind, o.name, n.nspowner::regrole)
from ours as o join pg_namespace as n on n.oid = 'queue'::regnamespace
where o.owner <> n.nspowner;

-- check project
-- what the project itself has, beside ours
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
  and has_table_privilege('authenticated', c.oid, 'select')
union all
select 'warn', format('a call of %s may hold a connection for %s', r.rolname, s.value),
  format('alter role %s set statement_timeout = ''8s''', r.rolname)
from pg_roles as r cross join unnest(r.rolconfig) as c (setting)
cross join lateral split_part(c.setting, '=', 2) as s (value)
where r.rolname in ('anon', 'authenticated') and c.setting like 'statement_timeout=%'
  and case when s.value ~ '^[0-9]+$' then s.value || 'ms' else s.value end::interval
    not between '1 ms' and '60 s';

-- check extensions
-- what the project switched on after its migrations ran
select 'fail', 'Realtime is there and not attached: no one can follow a job live',
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
having count(*) > 0;
