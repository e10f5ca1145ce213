-- With these queries, `minutehand doctor` finds faults that the engine itself does not report. The
-- first row that a query returns is a fault with the columns verdict, detail and fix.

-- check locks

-- find database sessions with locks that prevent people and workers from writing jobs: locks of a
-- table, any lock for which a lock of a table waits, and as a warning, locks of rows that a
-- transaction keeps although it does nothing
select case when bool_or(l.mode !~ '^Row') then 'fail' else 'warn' end,
  format('process %s locks %s, in a transaction that began %s s ago%s', a.pid,
    string_agg(distinct format('%s (%s)', c.oid::regclass, l.mode), ', '),
    round(extract(epoch from clock_timestamp() - a.xact_start)),
    case when a.state = 'idle in transaction' then ' and does nothing' else '' end),
  coalesce(
    'wait for the end of its call of ' || substring(min(a.query) filter (where a.state = 'active')
      from '\m(?:(?:lease|settle|report|spawn|enqueue|retry|cancel)_jobs?|run_maintenance)\M'),
    format('select pg_terminate_backend(%s)  -- ends this transaction of %s', a.pid, a.usename))
from pg_locks as l
join pg_class as c on c.oid = l.relation
join pg_stat_activity as a on a.pid = l.pid
where l.granted
  and l.locktype = 'relation'
  -- omit locks in the modes that vacuum and analyze take
  and (l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    or exists (select from pg_locks as w
      where w.relation = l.relation and not w.granted and w.mode = 'AccessExclusiveLock'
        and l.pid = any(pg_blocking_pids(w.pid)))
    or l.mode ~ '^Row' and a.state = 'idle in transaction'
      and a.state_change < clock_timestamp() - interval '10 s')
  and c.relkind = 'r'
  and l.database = (select oid from pg_database where datname = current_database())
  and (c.relnamespace = 'queue'::regnamespace
    or c.oid in (to_regclass('public.jobs'), to_regclass('public.job_logs'))
    or c.oid in (select d.refobjid from pg_depend as d join pg_rewrite as w on w.oid = d.objid
      where w.ev_class in (to_regclass('queue.tenants'), to_regclass('queue.tenant_members'))))
  and a.xact_start < clock_timestamp() - interval '2 s'
group by a.pid, a.xact_start, a.state, a.usename
order by 1;

-- check jobs

-- find pending jobs in no table of waiting jobs, for example after a truncate of such a table
select 'fail', format('%s pending jobs are in no table of waiting jobs, so no worker finds them',
    count(*)),
  format('select queue.place(j, queue.clock()) from public.jobs as j where id = any (%L)',
    array_agg(j.id))
from (select * from public.jobs order by id desc limit 1000) as j
where j.status = 'pending' and (j.deadline_at <= queue.clock()) is not true
  and not exists (
    select from (
      select job_id from queue.ready
      union all select job_id from queue.unpublished
      union all select job_id from queue.gated where not admitted
      union all select job_id from queue.deferred where is_place
    ) as p
    where p.job_id = j.id)
having count(*) > 0;

-- check project

-- find faults in tables, roles and settings that belong to the project
select 'warn', 'no tenant has a member: no one sees a job',
  'add people to public.workspace_members, or to the project''s own table of members with a role '
    'that queue.tenant_members selects'
where not exists (
  select from queue.tenant_members as m join queue.tenants as t on t.id = m.workspace_id)
union all
select 'fail', format('%s shows every tenant''s rows: its row level security is off',
    c.oid::regclass), format('alter table %s enable row level security', c.oid::regclass)
from pg_class as c join pg_attribute as a on a.attrelid = c.oid
where c.relkind = 'r' and not c.relrowsecurity and a.attname = 'workspace_id'
  and has_table_privilege('authenticated', c.oid, 'select')
union all
select 'fail', format('%s shows every tenant''s rows of %s', v.oid::regclass,
    string_agg(distinct d.refobjid::regclass::text, ', ')),
  format(case v.relkind
      when 'v' then 'alter view %s set (security_invoker = on)'
      else 'revoke select on %s from anon, authenticated'
    end, v.oid::regclass)
from pg_class as v
join pg_rewrite as w on w.ev_class = v.oid
join pg_depend as d on d.objid = w.oid and d.classid = 'pg_rewrite'::regclass
where v.relkind in ('v', 'm')
  and d.refobjid in (to_regclass('public.jobs'), to_regclass('public.job_logs'))
  and (v.reloptions && '{security_invoker=on,security_invoker=true}') is not true
  and (has_table_privilege('anon', v.oid, 'select')
    or has_table_privilege('authenticated', v.oid, 'select'))
group by v.oid, v.relkind
union all
select 'warn', format('%s keeps jobs from being deleted, also by retention', c.conrelid::regclass),
  format('alter table %s drop constraint %I, add constraint %2$I %s%s', c.conrelid::regclass,
    c.conname, regexp_replace(replace(pg_get_constraintdef(c.oid), ' ON DELETE RESTRICT', ''),
      '(REFERENCES [^)]+[)])', '\1 ON DELETE ' || n.action),
    case n.action when 'CASCADE' then '  -- rows of deleted jobs are deleted too' end)
from pg_constraint as c
cross join lateral (
  select case when bool_or(a.attnotnull) then 'CASCADE' else 'SET NULL' end
  from pg_attribute as a
  where a.attrelid = c.conrelid and a.attnum = any (c.conkey)
) as n (action)
where c.confrelid = 'public.jobs'::regclass and c.confdeltype in ('a', 'r')
union all
-- without a statement_timeout of at most 60 s, a read can run for hours
select 'warn', format('%s has %s: a call may occupy a connection for hours', s.setrole::regrole,
    c.setting),
  concat('alter role ', s.setrole::regrole, ' in database ' || quote_ident(d.datname),
    ' set statement_timeout = ''8s''')
from pg_db_role_setting as s
left join pg_database as d on d.oid = s.setdatabase
cross join unnest(s.setconfig) as c (setting)
cross join substring(c.setting, '^statement_timeout=(.+)') as v (value)
where s.setrole in (to_regrole('anon'), to_regrole('authenticated'))
  and (s.setdatabase = 0 or d.datname = current_database())
  and (v.value || case when v.value ~ '^[0-9]+$' then 'ms' else '' end)::interval
    not between '1 ms' and '60 s'
union all
-- the engine's function show_to_members created such policies before 0.5.1
select 'warn',
  format('policies of %s read every row in place of an index', string_agg(p.name, ', ')),
  string_agg(format('alter policy %I on %s using (%s)', p.policyname, p.name, regexp_replace(p.qual,
    '(\w+) IN \( SELECT (\w+\.my_workspaces\(\)) AS my_workspaces\)',
    '\1 = any (array(select \2))')), '; ')
from (select *, format('%I.%I', schemaname, tablename) as name from pg_policies) as p
where p.qual ~ '\w IN \( SELECT \w+\.my_workspaces\(\) AS'
having count(*) > 0;

-- check extensions

-- find extensions that the project enabled after its migrations ran
select 'fail', 'Realtime is enabled but not attached to the engine: no one can follow a job live',
  'drop policy if exists "minutehand: members and guests follow" on realtime.messages;'
    ' select public.attach_extensions()  -- in the SQL editor'
where to_regclass('realtime.messages') is not null and not exists (
  select from pg_policies
  where policyname = 'minutehand: members and guests follow'
    and qual ~ '^\(\([^()]+\) AND [^.]+\.may_follow\([^)]+\)[^)]+\)\) AS may_follow\)\)$'
    and roles @> '{anon,authenticated}' and permissive = 'PERMISSIVE')
union all
select 'fail', 'anyone may follow every topic: row level security of realtime.messages is off',
  'alter table realtime.messages enable row level security'
    '  -- as its owner; ask the support of Supabase if the project is hosted'
from pg_class where oid = to_regclass('realtime.messages') and not relrowsecurity
union all
-- a project may have its own Realtime topics, which the policy must still allow
select 'fail', format('the policy %s opens the topics of every tenant', policyname),
  format('alter policy %I on realtime.messages %s ((%s) and '
    'realtime.topic() !~ ''^(job|session|workspace):'')', policyname,
    case cmd when 'INSERT' then 'with check' else 'using' end, rule)
from (select *, coalesce(qual, with_check) as rule from pg_policies) as p
where tablename = 'messages' and schemaname = 'realtime' and permissive = 'PERMISSIVE'
  and cmd in ('SELECT', 'ALL', 'INSERT') and rule !~ 'topic'
  and roles && '{public,anon,authenticated}'::name[]
union all
select 'fail', format('the policy %s hides the topics of jobs', policyname),
  format('alter policy %I on realtime.messages using (%s or '
    'realtime.topic() ~ ''^(job|session|workspace):'')', policyname, qual)
from pg_policies
where tablename = 'messages' and schemaname = 'realtime' and permissive = 'RESTRICTIVE'
  and cmd in ('SELECT', 'ALL') and strpos(qual, '^(job|session|workspace):') = 0
  and roles && '{public,anon,authenticated}'::name[];

-- check functions

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
select 'fail', 'pg_cron must run minutehand-tick and minutehand-tidy once each',
  'select cron.unschedule(jobid) from cron.job'
  ' where jobname like ''minutehand-%'' or command like ''%queue.wake_worker(%'';'
  ' select public.attach_extensions()'
from cron.job
where active and database = current_database()
  -- another role may not call queue.wake_worker
  and pg_has_role(to_regrole(quote_ident(username)),
    (select nspowner from pg_namespace where oid = 'queue'::regnamespace), 'member')
having count(*) filter (
  where jobname = 'minutehand-tidy' and schedule ~ '\* \* \*$' and command ~ 'job_run_details'
    or jobname = 'minutehand-tick' and schedule = '* * * * *' and command ~ 'wake_worker'
) < 2 or count(*) filter (where command ~ 'queue\.wake_worker') > 1;

-- check publication

-- Realtime itself creates its publication of messages. If the other publication lacks tables, this
-- is a warning, because only the project's own pages may follow changes of tables. If a publication
-- has only some rows or columns of a table, Postgres may reject each update of a job.
select case when bool_or(t.pub ~ 'messages' or num_nulls(r.prqual, r.prattrs) < 2) then 'fail'
    else 'warn' end,
  format('%s lacks rows, columns or changes of %s', t.pub, string_agg(t.name, ', ')),
  case count(p.oid)
    when 0 then format('create publication %s for table %s', t.pub, string_agg(t.name, ', '))
    else string_agg(concat(
      format('alter publication %s drop table ', t.pub) || r.prrelid::regclass || '; ',
      format('alter publication %s add table %s; ', t.pub, t.name)), '')
      || format('alter publication %s set (publish = ''insert, update, delete, truncate'')', t.pub)
  end || case when t.pub ~ 'messages' then 
    '  -- as its owner; ask the support of Supabase if the project is hosted' else '' end
from (values ('supabase_realtime', 'public.jobs'), ('supabase_realtime', 'public.job_logs'),
  ('supabase_realtime_messages_publication', 'realtime.messages')) as t (pub, name)
left join pg_publication as p on p.pubname = t.pub
left join pg_class as c on c.oid = to_regclass(t.name)
left join pg_publication_rel as r on r.prpubid = p.oid and r.prrelid = c.oid
where p.oid is null and t.pub = 'supabase_realtime'
  or not (p.pubinsert and p.pubupdate and p.pubdelete)
  or num_nulls(r.prqual, r.prattrs) < 2
  or r.oid is null and not p.puballtables and not exists (
    select from pg_publication_namespace as n
    where n.pnpubid = p.oid and n.pnnspid = c.relnamespace)
group by t.pub;
