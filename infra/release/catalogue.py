"""The objects of a database's schemas as sorted lines, to compare databases.

Equal lines mean equal schemas. Object ids are left out, and so is the order of creation, except of
columns, which `insert` without names and `select *` depend on. Grants and policies are listed as
the statements that create them.
"""

from __future__ import annotations

from collections.abc import Collection

import psycopg

from minutehand.install.rewrite import Schemas

QUERY = r"""
with ours as (
  select n.oid, n.nspname, n.nspowner, n.nspacl
  from pg_namespace as n
  where n.nspname = any (%(names)s)
),
tables as (
  select c.*, o.nspname, format('%%s.%%s', o.nspname, c.relname) as name
  from pg_class as c
  join ours as o on o.oid = c.relnamespace
  where c.relkind in ('r', 'p', 'v', 'S')
),
columns as (
  select t.name as relation, t.relowner, a.*,
    row_number() over (partition by t.oid order by a.attnum) as position
  from tables as t
  join pg_attribute as a on a.attrelid = t.oid
  where a.attnum > 0
    and not a.attisdropped
),
functions as (
  select f.*, o.nspname,
    format('%%s.%%s(%%s)', o.nspname, f.proname, pg_get_function_identity_arguments(f.oid)) as name
  from pg_proc as f
  join ours as o on o.oid = f.pronamespace
  where f.prokind = 'f'
),
rights (object, owner, right_of, acl) as (
  select 'schema ' || o.nspname, o.nspowner, '', o.nspacl
  from ours as o
  union all
  select case t.relkind when 'S' then 'sequence ' else 'table ' end || t.name, t.relowner, '',
    t.relacl
  from tables as t
  union all
  select 'table ' || c.relation, c.relowner, format(' (%%I)', c.attname), c.attacl
  from columns as c
  union all
  select 'function ' || f.name, f.proowner, '', coalesce(f.proacl, acldefault('f', f.proowner))
  from functions as f
),
comments as (
  select i.type || ' ' || i.identity as object, d.description, i.schema, i.type, i.identity
  from pg_description as d
  cross join lateral pg_identify_object(d.classoid, d.objoid, d.objsubid) as i
  where d.objoid >= 16384
)
select line
from (
  select format(
      '%%s %%s owner=%%s rls=%%s/%%s options=%%s',
      case t.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end,
      t.name, pg_get_userbyid(t.relowner), t.relrowsecurity, t.relforcerowsecurity, t.reloptions
    ) as line
  from tables as t
  union all
  select format('view %%s is %%s', t.name, pg_get_viewdef(t.oid))
  from tables as t
  where t.relkind = 'v'
  union all
  select format(
      'column %%s %%s.%%s %%s notnull=%%s default=%%s identity=%%s generated=%%s storage=%%s',
      c.position, c.relation, c.attname, format_type(c.atttypid, c.atttypmod), c.attnotnull,
      pg_get_expr(d.adbin, d.adrelid), c.attidentity, c.attgenerated, c.attstorage
    )
  from columns as c
  left join pg_attrdef as d on d.adrelid = c.attrelid and d.adnum = c.attnum
  union all
  select format('index %%s', pg_get_indexdef(i.indexrelid))
  from tables as t
  join pg_index as i on i.indrelid = t.oid
  union all
  -- not-null constraints have rows of their own since 18
  select format('constraint %%s %%s %%s', t.name, c.conname, pg_get_constraintdef(c.oid))
  from tables as t
  join pg_constraint as c on c.conrelid = t.oid
  where c.contype <> 'n'
  union all
  select format('trigger %%s on %%s: %%s', g.tgname, t.name, pg_get_triggerdef(g.oid))
  from tables as t
  join pg_trigger as g on g.tgrelid = t.oid
  where not g.tgisinternal
  union all
  select format(
      'policy %%s.%%s create policy %%I on %%s.%%s as %%s for %%s to %%s',
      p.schemaname, p.tablename, p.policyname, p.schemaname, p.tablename, lower(p.permissive),
      lower(p.cmd), array_to_string(p.roles, ', ')
    )
      || coalesce(' using (' || p.qual || ')', '')
      || coalesce(' with check (' || p.with_check || ')', '')
  from pg_policies as p
  where p.schemaname in (select nspname from ours)
    or p.schemaname = 'realtime'
  union all
  select format('function %%s owner=%%s %%s', f.name, pg_get_userbyid(f.proowner),
    -- a setting of the server's own release
    replace(pg_get_functiondef(f.oid), E' SET default_toast_compression TO ''lz4''\n', ''))
  from functions as f
  union all
  select format('type %%s.%%s %%s', o.nspname, t.typname, (
      select string_agg(
        a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' order by a.attnum)
      from pg_attribute as a
      where a.attrelid = t.typrelid))
  from pg_type as t
  join ours as o on o.oid = t.typnamespace
  join pg_class as c on c.oid = t.typrelid and c.relkind = 'c'
  union all
  select format(
      'grant %%s%%s on %%s to %%s', lower(a.privilege_type), r.right_of, r.object,
      case a.grantee when 0 then 'public' else pg_get_userbyid(a.grantee) end
    )
  from rights as r
  cross join lateral aclexplode(r.acl) as a
  where a.grantee <> r.owner
    and a.privilege_type <> 'MAINTAIN' -- of 17 and newer
  union all
  select format('comment %%s %%s', c.object, c.description)
  from comments as c
  where c.schema in (select nspname from ours)
    or c.type = 'schema' and c.identity in (select nspname from ours)
  union all
  select format('published %%s %%s.%%s', p.pubname, p.schemaname, p.tablename)
  from pg_publication_tables as p
  where p.schemaname in (select nspname from ours)
  union all
  select format(
      'role %%s login=%%s inherit=%%s member of %%s', r.rolname, r.rolcanlogin, r.rolinherit, (
        select string_agg(m.roleid::regrole::text, ' ' order by m.roleid::regrole::text)
        from pg_auth_members as m
        where m.member = r.oid)
    )
  from pg_roles as r
  where r.rolname in ('anon', 'authenticated', 'service_role', 'authenticator', 'job_worker')
) as lines
order by line collate "C"
"""
#: Tables with rows in a new install.
ROWS = ("settings", "tasks", "job_types")
_ROWS = """
select format('row {table} %s', to_jsonb(t) - array(
    select a.attname::text
    from pg_attribute as a
    where a.attrelid = '{table}'::regclass and a.atttypid = 'timestamptz'::regtype))
from {table} as t
where to_jsonb(t) ->> 'name' is distinct from 'guest_key' -- drawn by each install
"""


def catalogue(
    url: str,
    schemas: Schemas = Schemas(),  # noqa: B008 - frozen
    *,
    others: Collection[str] = (),
) -> list[str]:
    """List the objects of the clients' schema, the engine's schema and `others`."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set search_path = ''")
        names = [schemas.clients, schemas.engine, *others]
        return [row[0] for row in connection.execute(QUERY, {"names": names}).fetchall()]


def first_rows(url: str, schemas: Schemas = Schemas()) -> list[str]:  # noqa: B008 - frozen
    """List the rows of a new install, without their timestamps."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set search_path = ''")
        rows = [
            row[0]
            for table in ROWS
            for row in connection.execute(
                _ROWS.format(table=f"{schemas.engine}.{table}").encode()
            ).fetchall()
        ]
    return sorted(rows)


def differences(left: list[str], right: list[str]) -> list[str]:
    """List the lines of only one of two catalogues, with `-` for the left and `+` for the right."""
    return sorted(
        [f"- {line}" for line in set(left) - set(right)]
        + [f"+ {line}" for line in set(right) - set(left)],
        key=lambda line: line[2:],
    )
