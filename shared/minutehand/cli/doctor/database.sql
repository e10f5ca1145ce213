-- What doctor asks the database of itself, beside its findings. The first row of a query, if there
-- is one, is a fault: verdict, detail and fix.

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
where c.relkind = 'r' and a.attname = 'workspace_id' and not c.relrowsecurity
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
  'in the SQL editor: select public.attach_extensions()'
where to_regclass('realtime.messages') is not null and not exists (
  select from pg_policies where policyname = 'minutehand: members and guests follow')
union all
select 'fail', format('a revoked worker key may call %s', oid::regprocedure),
  'let it begin with: perform queue.refuse_revoked();'
from pg_proc
where proacl::text ~ '[{,]job_worker=' and strpos(prosrc, 'refuse_revoked();') = 0
union all
select 'fail', format('the worker may not use the schema of %s', oid::regproc),
  format('grant usage on schema %s to job_worker', pronamespace::regnamespace)
from pg_proc where proacl::text ~ '[{,]job_worker='
  and not has_schema_privilege('job_worker', pronamespace, 'usage');

-- check wake-up
select 'fail', format('pg_net or the Vault is missing: no job wakes the worker at %s', value),
  'switch on pg_net and supabase_vault under Database → Extensions'
from queue.settings
where name = 'worker_url' and (to_regclass('vault.decrypted_secrets') is null
  or to_regprocedure('net.http_post(text,jsonb,jsonb,jsonb,integer)') is null);

-- check publication
select 'warn', format('supabase_realtime lacks %s', string_agg(name, ', ')),
  format('alter publication supabase_realtime add table %s', string_agg(name, ', '))
from (values ('public.jobs'), ('public.job_logs')) as tables (name)
where not exists (select from pg_publication_tables
  where pubname = 'supabase_realtime' and schemaname || '.' || tablename = name)
having count(*) > 0;
