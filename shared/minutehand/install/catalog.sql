-- What a release leaves in a database, as the statements that make it so: functions, views, grants,
-- policies, indexes, triggers, and what is switched on. `object` is what a statement is about;
-- `undo` takes it back, and is null where more than was recorded does no harm. The owner of the
-- engine is written as {owner}.
with engine as (
  select n.oid, n.nspowner as owner
  from pg_catalog.pg_namespace as n
  where n.oid = 'queue'::regnamespace
),
relations as (
  select c.*, c.oid::regclass::text as name
  from pg_catalog.pg_class as c, engine as e
  where c.relkind in ('r', 'v')
    and (
      c.relnamespace = e.oid
      or c.oid in (
        'public.jobs'::regclass,
        'public.job_logs'::regclass,
        'public.job_events'::regclass
      )
    )
),
functions as (
  select p.*, p.oid::regprocedure::text as name
  from pg_catalog.pg_proc as p, engine as e
  where p.prokind = 'f'
    and (
      p.pronamespace = e.oid
      -- a body in the standard's form has no text
      or p.pronamespace = 'public'::regnamespace
        and strpos(pg_get_functiondef(p.oid), e.oid::regnamespace || '.') > 0
    )
),
owned (kind, name, owner, acl) as (
  select 'table', r.name, r.relowner, r.relacl
  from relations as r
  union all
  select
    'function',
    f.name,
    f.proowner,
    coalesce(f.proacl, acldefault('f', f.proowner))
  from functions as f
  union all
  select 'schema', n.nspname, null, n.nspacl
  from pg_catalog.pg_namespace as n
  where n.oid in ('public'::regnamespace, 'queue'::regnamespace)
),
memberships as (
  select
    m.roleid::regrole::text as granted,
    case
      when m.member = e.owner then '{owner}'
      else m.member::regrole::text
    end as name
  from pg_catalog.pg_auth_members as m, engine as e
  where 'job_worker'::regrole in (m.member, m.roleid)
),
facts (object, statement, undo) as (
  select
    f.name,
    -- a setting of the server's own release, not of ours
    replace(
      pg_get_functiondef(f.oid),
      E' SET default_toast_compression TO ''lz4''\n',
      ''
    ),
    null
  from functions as f
  union all
  select
    r.name,
    format(
      E'create or replace view %s%s as\n%s',
      r.name,
      ' with (' || array_to_string(r.reloptions, ', ') || ')',
      pg_get_viewdef(r.oid)
    ),
    null
  from relations as r
  -- a project's to edit
  where r.relkind = 'v' and r.relname not in ('tenants', 'tenant_members')
  union all
  select
    o.name,
    format(
      'alter %s %s owner to %s',
      o.kind,
      o.name,
      case
        when o.owner = e.owner then '{owner}'
        else o.owner::regrole::text
      end
    ),
    null
  from owned as o, engine as e
  where o.owner is not null
  union all
  select
    o.name,
    format('grant %s on %s %s to %s', lower(a.privilege_type), o.kind, o.name, r.role),
    format('revoke %s on %s %s from %s', lower(a.privilege_type), o.kind, o.name, r.role)
  from owned as o
  cross join lateral aclexplode(o.acl) as a
  join unnest('{public, anon, authenticated, service_role, job_worker}'::text[]) as r (
    role
  ) on a.grantee = case r.role when 'public' then 0 else to_regrole(r.role)::oid end
  where a.privilege_type <> 'MAINTAIN' -- of 17 and newer
    and not (o.kind = 'schema' and r.role = 'public') -- as Postgres makes its own
  union all
  select r.name, format('alter table %s enable row level security', r.name), null
  from relations as r
  where r.relrowsecurity
  union all
  select r.name, pg_get_triggerdef(t.oid), null
  from relations as r
  join pg_catalog.pg_trigger as t on t.tgrelid = r.oid
  where not t.tgisinternal
  union all
  select
    r.name,
    format('alter table %s enable trigger %I', r.name, t.tgname),
    null
  from relations as r
  join pg_catalog.pg_trigger as t on t.tgrelid = r.oid
  where not t.tgisinternal and t.tgenabled <> 'D'
  union all
  select r.name, pg_get_indexdef(i.indexrelid), null
  from relations as r
  join pg_catalog.pg_index as i on i.indrelid = r.oid
  union all
  select
    r.name,
    format(
      'create policy %I on %s for %s to %s',
      p.policyname,
      r.name,
      p.cmd,
      array_to_string(p.roles, ', ')
    )
      || coalesce(' using (' || p.qual || ')', '')
      || coalesce(' with check (' || p.with_check || ')', ''),
    format('drop policy %I on %s', p.policyname, r.name)
  from relations as r
  join pg_catalog.pg_policies as p
    on to_regclass(format('%I.%I', p.schemaname, p.tablename)) = r.oid
  union all
  select
    'job_worker',
    'alter role job_worker ' || a.may,
    'alter role job_worker no' || a.may
  from pg_catalog.pg_roles as w
  cross join lateral (
    values
      ('superuser', w.rolsuper),
      ('login', w.rolcanlogin),
      ('bypassrls', w.rolbypassrls),
      ('createrole', w.rolcreaterole)
  ) as a (may, is_on)
  where w.rolname = 'job_worker' and a.is_on
  union all
  select
    'job_worker',
    format('grant %s to %s', m.granted, m.name),
    format('revoke %s from %s', m.granted, m.name)
  from memberships as m
)
select distinct object, statement, undo
from facts
order by object, statement
