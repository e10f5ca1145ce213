-- Return the engine's objects in a database, each as the statement that creates the object. The
-- objects are types, tables, columns, constraints, functions, views, grants, policies, indexes,
-- triggers, and their settings. The statements can run in ascending order of `rank`. The column
-- `object` names the object that the statement creates. The column `undo` contains the statement
-- that removes the object. The column `undo` is null for kinds of objects that a project may also
-- create. In the statements, {owner} is the role that owns the engine.
--
-- A project may edit objects of rank 20 or more, the check constraints of public.workspaces and
-- public.workspace_members, and when autovacuum processes the tables of clients. A project must not
-- edit comments that begin with `Person:`. Objects that a project may edit are compared only in the
-- test of a release.
with engine as (
  select
    n.oid,
    -- the owner of most tables, because the schema's owner may be wrong
    (
      select mode() within group (order by c.relowner)
      from pg_class as c
      where c.relnamespace = n.oid
    ) as owner
  from pg_namespace as n
  where n.oid = 'queue'::regnamespace
),
relations as (
  select c.*, c.oid::regclass::text as name
  from pg_class as c, engine as e
  where c.relkind in ('r', 'v')
    and c.relnamespace in (e.oid, 'public'::regnamespace)
),
functions as (
  select p.*, p.oid::regprocedure::text as name
  from pg_proc as p, engine as e
  where p.prokind = 'f'
    and p.pronamespace in (e.oid, 'public'::regnamespace)
),
-- triggers of the engine's tables, and triggers of a project's tables that call the engine
triggers as (
  select t.*, t.tgrelid::regclass::text as relation
  from pg_trigger as t
  where not t.tgisinternal
    and (
      t.tgrelid in (select r.oid from relations as r)
      or t.tgfoid in (
        select f.oid from functions as f where f.pronamespace = 'queue'::regnamespace
      )
    )
),
sequences as (
  select c.*, c.oid::regclass::text as name
  from engine as e
  join pg_class as c on c.relnamespace = e.oid and c.relkind = 'S'
  where not exists (
    select from pg_depend as d where d.objid = c.oid and d.deptype in ('a', 'i')
  )
),
types as (
  select
    c.oid::regclass::text as name,
    t.typowner as owner,
    coalesce(t.typacl, acldefault('T', t.typowner)) as acl,
    a.attnum,
    quote_ident(a.attname) as attribute,
    format_type(a.atttypid, a.atttypmod) as type
  from engine as e
  join pg_class as c on c.relnamespace = e.oid and c.relkind = 'c'
  join pg_type as t on t.oid = c.reltype
  left join pg_attribute as a on a.attrelid = c.oid and not a.attisdropped
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
  select
    'sequence',
    c.oid::regclass::text,
    -- compare the owner only for sequences that belong to no column, because other sequences always
    -- have the owner of their table
    case when s.oid is not null then c.relowner end,
    c.relacl
  from pg_class as c
  left join sequences as s on s.oid = c.oid
  where c.relkind = 'S' and c.relnamespace in ('public'::regnamespace, 'queue'::regnamespace)
  union all
  select 'type', t.name, t.owner, t.acl
  from types as t
  union all
  select 'schema', n.nspname, case n.oid when 'queue'::regnamespace then n.nspowner end, n.nspacl
  from pg_namespace as n
  where n.oid in ('public'::regnamespace, 'queue'::regnamespace)
),
roles as (
  select *
  from pg_roles
  where rolname in (
    'anon', 'authenticated', 'service_role', 'authenticator', 'job_worker', 'postgres'
  )
),
memberships as (
  select
    m.roleid::regrole::text as granted,
    case
      when m.member = e.owner then '{owner}'
      else m.member::regrole::text
    end as name
  from pg_auth_members as m, engine as e
  where 'job_worker'::regrole in (m.member, m.roleid)
    or m.member = to_regrole('authenticator')
      and m.roleid in (to_regrole('anon'), to_regrole('authenticated'), to_regrole('service_role'))
    or m.member in (to_regrole('anon'), to_regrole('authenticated'), to_regrole('service_role'))
      -- as a member of such a role, a caller could read the rows of every tenant
      and exists (
        select from pg_roles as r
        where (r.rolsuper or r.rolbypassrls or r.rolname ~ '^pg_(read|write)_all_data')
          and pg_has_role(m.roleid, r.oid, 'member')
      )
),
role_settings as (
  select
    case s.setrole
      when 0 then 'database ' || quote_ident(d.datname)
      else concat('role ', s.setrole::regrole, ' in database ' || quote_ident(d.datname))
    end as target,
    c.setting,
    split_part(c.setting, '=', 1) as name,
    split_part(c.setting, '=', 2) as value
  from pg_db_role_setting as s
  left join pg_database as d on d.oid = s.setdatabase
  cross join unnest(s.setconfig) as c (setting)
  where (s.setdatabase = 0 or d.datname = current_database())
    and (s.setrole = 0 or s.setrole in (select r.oid from roles as r))
),
columns as (
  select
    r.name as relation,
    quote_ident(a.attname) as name,
    format_type(a.atttypid, a.atttypmod) as type,
    a.*,
    pg_get_expr(d.adbin, d.adrelid) as expression
  from relations as r
  join pg_attribute as a
    on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
  left join pg_attrdef as d on d.adrelid = r.oid and d.adnum = a.attnum
  where r.relkind = 'r'
),
acls (object, columns, target, acl) as (
  select o.name, '', o.kind || ' ' || o.name, o.acl
  from owned as o
  union all
  select c.relation, ' (' || c.name || ')', 'table ' || c.relation, c.attacl
  from columns as c
),
facts (rank, object, statement, undo) as (
  select 1, t.name, format('create type %s as ()', t.name), null
  from types as t
  union all
  select
    3,
    t.name,
    format(
      'alter type %s %s',
      t.name,
      string_agg(format('add attribute %s %s', t.attribute, t.type), ', ' order by t.attnum)
    ),
    format(
      'alter type %s %s',
      t.name,
      string_agg(format('drop attribute %s', t.attribute), ', ' order by t.attnum)
    )
  from types as t
  where t.attribute is not null
  group by t.name
  union all
  select 1, s.name, format('create sequence if not exists %s', s.name), null
  from sequences as s
  union all
  select
    3,
    s.name,
    format('alter sequence %s as %s increment %s minvalue %s maxvalue %s cache %s', s.name,
      format_type(q.seqtypid, null), q.seqincrement, q.seqmin, q.seqmax, q.seqcache)
      || case when q.seqcycle then ' cycle' else ' no cycle' end,
    null
  from pg_sequence as q
  join pg_class as c
    on c.oid = q.seqrelid
      and c.relnamespace in ('public'::regnamespace, 'queue'::regnamespace)
  cross join lateral text(c.oid::regclass) as s (name)
  union all
  select 2, r.name, format('create table if not exists %s ()', r.name), null
  from relations as r
  where r.relkind = 'r'
  union all
  select
    3,
    o.name,
    format(
      'alter %s %s set %s%s',
      o.kind,
      o.name,
      case o.relpersistence when 'u' then 'unlogged' else 'logged' end,
      ', replica identity ' || o.identity
    ),
    null
  from (
    select
      'table',
      name,
      relpersistence,
      case
        -- a project may set replica identity full, so that Realtime sends complete old rows
        when relreplident = 'f' and relnamespace = 'public'::regnamespace then 'default'
        else split_part('default nothing full index', ' ', strpos('dnfi', relreplident))
      end
    from relations
    where relkind = 'r'
    union all
    select 'sequence', oid::regclass::text, relpersistence, null
    from pg_class
    where relkind = 'S' and relnamespace in ('public'::regnamespace, 'queue'::regnamespace)
  ) as o (kind, name, relpersistence, identity)
  union all
  -- the definition of an index contains its options, except that of a constraint's index
  select
    6,
    r.name,
    format('alter %s set (%s)', p.target, o.option),
    case
      when o.option !~ '^autovacuum_(?!enabled)' or r.relnamespace = 'queue'::regnamespace
        then format('alter %s reset (%s)', p.target, split_part(o.option, '=', 1))
    end
  from relations as r
  cross join lateral (
    select case r.relkind when 'v' then 'view ' else 'table ' end || r.name, r.reloptions
    union all
    select 'table ' || r.name, array(select 'toast.' || option from unnest(t.reloptions) as option)
    from pg_class as t
    where t.oid = r.reltoastrelid
    union all
    select 'index ' || i.oid::regclass, i.reloptions
    from pg_constraint as k
    join pg_class as i on i.oid = k.conindid
    where k.conrelid = r.oid and k.contype <> 'f'
  ) as p (target, options)
  cross join unnest(p.options) as u (text)
  cross join regexp_replace(u.text, '=(true|yes)$', '=on', 'i') as o (option)
  union all
  select v.rank, c.relation, format('alter table %s %s', c.relation, v.change), null
  from columns as c
  cross join lateral (
    values
      (
        3,
        format('add column if not exists %s %s', c.name, c.type) || case
          when c.attidentity = 'a' then ' generated always as identity'
          when c.attidentity = 'd' then ' generated by default as identity'
          when c.attgenerated <> '' then format(' generated always as (%s) stored', c.expression)
          else coalesce(' default ' || c.expression, '')
        end
      ),
      (
        3,
        case
          when c.attgenerated = ''
            then format('alter column %s type %s using %1$s::%2$s', c.name, c.type)
        end
      ),
      (
        6,
        case
          when c.attgenerated = '' then 'alter column ' || c.name || ' set default ' || c.expression
        end
      ),
      (6, case when c.attnotnull then format('alter column %s set not null', c.name) end)
  ) as v (rank, change)
  where v.change is not null
  union all
  -- attributes of a column whose value is not the default
  select
    6,
    c.relation,
    format('alter table %s alter column %s set %s', c.relation, c.name, a.setting),
    format('alter table %s alter column %s %s', c.relation, c.name, a.undo)
  from columns as c
  join pg_type as t on t.oid = c.atttypid
  cross join lateral (
    select
      'storage ' || split_part(s.names, ' ', strpos('pemx', c.attstorage)),
      'set storage ' || split_part(s.names, ' ', strpos('pemx', t.typstorage))
    from (values ('plain external main extended')) as s (names)
    where c.attstorage <> t.typstorage
    union all
    select
      'compression ' || split_part('pglz lz4', ' ', strpos('pl', c.attcompression)),
      'set compression default'
    where c.attcompression <> ''
    union all
    select 'statistics ' || c.attstattarget, 'set statistics -1'
    where c.attstattarget >= 0
    union all
    select format('(%s)', o.option), format('reset (%s)', split_part(o.option, '=', 1))
    from unnest(c.attoptions) as o (option)
  ) as a (setting, undo)
  union all
  select
    7,
    r.name,
    format(
      'alter table %s add constraint %I %s',
      r.name,
      k.conname,
      pg_get_constraintdef(k.oid)
    ),
    null
  from relations as r
  join pg_constraint as k
    on k.conrelid = r.oid and k.contype in ('c', 'f', 'p', 'u', 'x')
  union all
  select
    4,
    f.name,
    -- ignore the setting lz4, because only some servers support lz4
    replace(
      pg_get_functiondef(f.oid),
      E' SET default_toast_compression TO ''lz4''\n',
      ''
    ),
    null
  from functions as f
  union all
  select
    5,
    r.name,
    format(
      E'create or replace view %s (%s) as\n%s',
      r.name,
      (
        select string_agg(quote_ident(a.attname), ', ' order by a.attnum)
        from pg_attribute as a
        where a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
      ),
      pg_get_viewdef(r.oid)
    ),
    null
  from relations as r
  where r.relkind = 'v'
  union all
  select
    10,
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
    11,
    l.object,
    format('grant %s%s on %s to %s', lower(a.privilege_type), l.columns, l.target, r.role)
      || case when a.is_grantable then ' with grant option' else '' end,
    format('revoke %s%s%s on %s from %s', case when a.is_grantable then 'grant option for ' end,
      lower(a.privilege_type), l.columns, l.target, r.role)
  from acls as l
  cross join lateral aclexplode(l.acl) as a
  join unnest('{public, anon, authenticated, service_role, job_worker}'::text[]) as r (
    role
  ) on a.grantee = case r.role when 'public' then 0 else to_regrole(r.role)::oid end
  -- ignore the right of all roles to use the schema public, which Postgres itself grants
  where not (
    starts_with(l.target, 'schema ')
    and l.object <> 'queue'::regnamespace::text
    and r.role = 'public'
  )
  union all
  -- rights that the owner of an object has revoked from itself
  select
    11,
    o.name,
    format('revoke all on %s %s from {owner}', o.kind, o.name),
    format('grant all on %s %s to {owner}', o.kind, o.name)
  from owned as o
  -- Postgres calls a table a relation
  cross join lateral aclexplode(
    acldefault(
      case o.kind
        when 'table' then 'r'
        when 'type' then 'T'
        when 'schema' then 'n'
        else left(o.kind, 1)
      end::"char",
      o.owner
    )
  ) as a
  where a.grantee = o.owner
    and a.privilege_type <> 'MAINTAIN' -- a right of Postgres 17 and newer
    and o.acl is not null
    and not exists (
      select from aclexplode(o.acl) as held
      where held.grantee = o.owner and held.privilege_type = a.privilege_type
    )
  union all
  -- default rights of new objects in the engine's schema
  select
    11,
    e.oid::regnamespace::text,
    format('%s grant %s', d.start, d.rights || ' to ' || d.role),
    format('%s revoke %s', d.start, d.rights || ' from ' || d.role)
  from engine as e
  cross join lateral (
    select
      format(
        'alter default privileges for role %s in schema %s',
        p.defaclrole::regrole,
        e.oid::regnamespace
      ),
      format(
        '%s on %s',
        lower(a.privilege_type),
        case p.defaclobjtype
          when 'r' then 'tables'
          when 'S' then 'sequences'
          when 'f' then 'functions'
          else 'types'
        end
      ),
      case a.grantee when 0 then 'public' else a.grantee::regrole::text end
    from pg_default_acl as p
    cross join lateral aclexplode(p.defaclacl) as a
    where p.defaclnamespace = e.oid
  ) as d (start, rights, role)
  union all
  select
    9,
    r.name,
    format('alter table %s %s row level security', r.name, s.verb),
    case s.verb when 'force' then format('alter table %s no force row level security', r.name) end
  from relations as r
  join lateral (
    values ('enable', r.relrowsecurity), ('force', r.relforcerowsecurity)
  ) as s (verb, is_on) on s.is_on
  union all
  -- parents and children of a table. The statement of a child differs by the word `only`, because a
  -- comparison uses one of equal statements, and only one of the two tables is the engine's.
  select
    9,
    r.name,
    format(
      'alter table %s%s inherit %s',
      case h.inhrelid when r.oid then 'only ' end,
      h.inhrelid::regclass,
      h.inhparent::regclass
    ),
    format('alter table %s no inherit %s', h.inhrelid::regclass, h.inhparent::regclass)
  from relations as r
  join pg_inherits as h on r.oid in (h.inhparent, h.inhrelid)
  union all
  select 8, t.relation, pg_get_triggerdef(t.oid), null
  from triggers as t
  union all
  select
    8,
    r.name,
    pg_get_ruledef(w.oid),
    format('drop rule %I on %s', w.rulename, r.name)
  from relations as r
  join pg_rewrite as w on w.ev_class = r.oid and w.rulename <> '_RETURN'
  union all
  select
    9,
    t.relation,
    format('alter table %s enable trigger %I', t.relation, t.tgname),
    null
  from triggers as t
  where t.tgenabled = 'O' and (t.tgtype & 64) = 0 -- no trigger of a view
  union all
  select
    7,
    r.name,
    concat(pg_get_indexdef(i.indexrelid), case when not i.indisvalid then ' -- invalid' end),
    null
  from relations as r
  join pg_index as i on i.indrelid = r.oid
  where not exists (
    select from pg_constraint as k where k.conindid = i.indexrelid and k.conrelid = r.oid
  )
  union all
  select
    9,
    r.name,
    format(
      'create policy %I on %s%s for %s to %s',
      p.policyname,
      r.name,
      case p.permissive when 'RESTRICTIVE' then ' as restrictive' end,
      p.cmd,
      array_to_string(p.roles, ', ')
    )
      || coalesce(' using (' || p.qual || ')', '')
      || coalesce(' with check (' || p.with_check || ')', ''),
    format('drop policy %I on %s', p.policyname, r.name)
  from pg_policies as p
  cross join lateral format('%I.%I', p.schemaname, p.tablename) as r (name)
  where p.schemaname in (
    'public'::regnamespace::text, 'queue'::regnamespace::text, 'realtime'
  )
  union all
  select
    12,
    'job_worker',
    format('alter role %I %s', w.rolname, a.may),
    format('alter role %I %s', w.rolname, a.undo)
  from roles as w
  cross join lateral (
    values
      ('superuser', 'nosuperuser', w.rolsuper),
      ('login', 'nologin', w.rolcanlogin),
      ('bypassrls', 'nobypassrls', w.rolbypassrls),
      ('createrole', 'nocreaterole', w.rolcreaterole),
      ('createdb', 'nocreatedb', w.rolcreatedb),
      ('replication', 'noreplication', w.rolreplication),
      ('inherit', 'noinherit', w.rolinherit and w.rolname in ('authenticator', 'job_worker')),
      -- the Data API needs ten connections
      (
        'connection limit ' || w.rolconnlimit,
        'connection limit -1',
        w.rolconnlimit between 0 and 9
      ),
      (
        'valid until ' || quote_literal(w.rolvaliduntil),
        'valid until ''infinity''',
        w.rolvaliduntil < now()
      )
  ) as a (may, undo, is_on)
  where w.rolname <> 'postgres' and a.is_on
  union all
  select
    12,
    'job_worker',
    format('alter database %I connection limit %s', d.datname, d.datconnlimit),
    format('alter database %I connection limit -1', d.datname)
  from pg_database as d
  where d.datname = current_database() and d.datconnlimit between 0 and 9
  union all
  select
    12,
    'job_worker',
    format('revoke connect on database %I from %I', current_database(), r.rolname),
    format('grant connect on database %I to %I', current_database(), r.rolname)
  from pg_roles as r
  where (r.rolname = 'authenticator' or r.rolname ~ '^(postgres|supabase_.+)$' and r.rolcanlogin)
    and not has_database_privilege(r.oid, current_database(), 'connect')
  union all
  -- return settings of a role or database that let statements fail, disable triggers, change the
  -- text form of a timestamp or hide rows from the Data API
  select
    12,
    'job_worker',
    format('alter %s set %s', s.target, s.setting),
    -- restore Supabase's own statement timeout of the API's roles
    case
      when s.name = 'statement_timeout' and s.target like 'role auth%'
        then format('alter %s set statement_timeout = ''8s''', s.target)
      when s.name like 'pgrst.%'
        then format('alter %s reset %s; notify pgrst, ''reload config''', s.target, s.name)
      when lower(s.name) = 'default_transaction_read_only'
        then format(
          'begin; set transaction read write; alter %s reset %s; commit',
          s.target,
          s.name
        )
      else format('alter %s reset %s', s.target, s.name)
    end
  from role_settings as s
  where case
    when lower(s.name) in (
      'statement_timeout',
      'transaction_timeout',
      'lock_timeout',
      'idle_in_transaction_session_timeout',
      'idle_session_timeout'
    )
      then (s.value || case when s.value ~ '^[0-9]+$' then 'ms' else '' end)::interval
        between '1 ms'
          -- pools and listening workers keep idle sessions
          and case lower(s.name) when 'idle_session_timeout' then '59 s' else '900 ms' end::interval
    -- a crash would lose jobs whose callers saw the commit
    when lower(s.name) = 'synchronous_commit' then s.value <> 'on'
    when s.name = 'pgrst.db_max_rows' then s.value::integer < 1000
    when s.name = 'pgrst.db_schemas'
      then 'public'::regnamespace::text <> all (string_to_array(replace(s.value, ' ', ''), ','))
    else lower(s.name) in (
      'default_transaction_read_only',
      'default_transaction_isolation',
      'session_replication_role',
      'row_security',
      'role',
      'datestyle',
      'intervalstyle'
    )
    -- change the meaning of SQL, or forbid plans
    or exists (
      select from pg_settings as p
      where p.name = lower(s.name)
        and p.category ~ '^(Version and Platform|Query Tuning / Planner Method)'
        and p.boot_val <> s.value
    )
  end
  union all
  select
    12,
    'job_worker',
    format('grant %s to %s', m.granted, m.name),
    format('revoke %s from %s', m.granted, m.name)
  from memberships as m
  union all
  -- a project may change the value of a setting, but must not delete the setting
  select
    13,
    -- Compare only the JSON type of a setting's value. The value of two settings may also be a word
    -- such as "free", or null.
    format(
      'setting %s %s',
      case
        when s.name = 'disk_bytes' and s.value = 'null'
          or s.name = 'realtime_messages_per_second' and s.value in ('"free"', '"pro"')
          then 'number'
        -- no limit may be zero or negative, and a low burst rejects almost every call
        when jsonb_typeof(s.value) = 'number'
          and s.value < case when s.name like '%_burst' then '10' else '1' end::jsonb
          or s.value @? '$.* ? (@ < 0)'
          then 'invalid'
        else jsonb_typeof(s.value)
      end,
      s.name
    ),
    format(
      'insert into queue.settings (name, value) values (%L, %s)'
        ' on conflict (name) do update set value = excluded.value',
      s.name,
      case s.name
        when 'guest_key' -- a secret, which each install draws
          then 'to_jsonb(encode(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()),'
            ' ''hex''))'
        else quote_literal(s.value)
      end
    ),
    null
  from queue.settings as s
  union all
  select
    13,
    'task ' || t.name,
    format(
      'insert into queue.tasks (name, every, reads_feed) values (%L, %L, %L)'
        ' on conflict (name) do update'
        ' set every = excluded.every, reads_feed = excluded.reads_feed',
      t.name,
      t.every,
      t.reads_feed
    ),
    null
  from queue.tasks as t
  union all
  select
    20,
    i.identity,
    format(
      'comment on %s %s is %L',
      -- pg_identify_object returns `table column` for a column, and `composite type` for a type
      regexp_replace(i.type, '^(table|view|composite) ', ''),
      i.identity,
      d.description
    ),
    null
  from pg_description as d
  cross join lateral pg_identify_object(d.classoid, d.objoid, d.objsubid) as i
  where d.objoid >= 16384
    and coalesce(i.schema, i.identity) in (
      'public'::regnamespace::text, 'queue'::regnamespace::text
    )
  union all
  select
    21,
    r.name,
    format('alter publication %I add table %s', p.pubname, r.name),
    null
  from relations as r
  join pg_publication_tables as p
    on to_regclass(format('%I.%I', p.schemaname, p.tablename)) = r.oid
  union all
  -- compare the order of columns, because an insert without column names depends on this order
  select
    22,
    c.relation,
    format('%s has the columns %s', c.relation, string_agg(c.name, ', ' order by c.attnum)),
    null
  from columns as c
  group by c.relation
)
select
  rank,
  object,
  statement,
  undo,
  -- the export and erasure of personal data depend on comments that begin with `Person:`
  rank >= 20
    and statement not like 'comment on column % is ''Person: %'
    -- `uninstall` recognizes the engine's schemas by their comments
    and statement not like 'comment on schema %'
    or object = 'realtime.messages'
    or object in ('public.workspaces', 'public.workspace_members')
      and statement like '% CHECK (%'
    or statement like '% on sequence %'
    or statement like '% set (autovacuum%' and undo is null
    as is_editable
from facts
group by rank, object, statement, undo
order by
  rank,
  -- functions and views as they were created, because each may use only earlier ones
  case rank when 4 then to_regprocedure(object)::oid when 5 then to_regclass(object)::oid end,
  -- a foreign key needs the other table's unique index, and a generated column fixes the types of
  -- other columns
  statement ~ ' (FOREIGN KEY|generated always as) \(',
  object,
  statement
