"""What a database's schemas hold, as sorted lines: the same lines mean the same schema.

For comparing databases that came by different ways; without order of creation and object ids.
"""

from __future__ import annotations

import psycopg

from minutehand.install.rewrite import Schemas, rewrite

# not-null constraints have rows of their own since 18, `m` (maintain) is a privilege since 17
QUERY = r"""
with ours as (
  select oid, nspname from pg_namespace where oid in (to_regnamespace('public'),
    to_regnamespace('queue'))),
tables as (
  select c.*, o.nspname from pg_class c join ours o on o.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'S'))
select line from (
  select format('%s %s.%s owner=%s rls=%s/%s options=%s grants=%s', case relkind when 'v'
    then 'view' when 'S' then 'sequence' else 'table' end,
    nspname, relname, pg_get_userbyid(relowner), relrowsecurity, relforcerowsecurity, reloptions,
    (select string_agg(regexp_replace(a::text, 'm(?=[a-zA-Z*]*/)', ''), ' ' order by a::text)
      from unnest(relacl) a)) as line from tables
  union all
  select format('view %s.%s is %s', nspname, relname, pg_get_viewdef(oid)) from tables
    where relkind = 'v'
  union all
  select format('column %s.%s.%s %s notnull=%s default=%s identity=%s generated=%s grants=%s',
    t.nspname, t.relname, a.attname,
    format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
      a.attidentity, a.attgenerated, a.attacl)
  from tables t join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
  left join pg_attrdef d on d.adrelid = t.oid and d.adnum = a.attnum
  union all
  select format('index %s', pg_get_indexdef(i.indexrelid)) from tables t
    join pg_index i on i.indrelid = t.oid
  union all
  select format('constraint %s.%s %s %s', t.nspname, t.relname, c.conname,
    pg_get_constraintdef(c.oid))
  from tables t join pg_constraint c on c.conrelid = t.oid where c.contype <> 'n'
  union all
  select format('trigger %s', pg_get_triggerdef(g.oid)) from tables t
    join pg_trigger g on g.tgrelid = t.oid where not g.tgisinternal
  union all
  select format('policy %s.%s %s %s %s roles=%s using=%s check=%s', n.nspname, c.relname, p.polname,
    p.polcmd, p.polpermissive,
    (select string_agg(pg_get_userbyid(r), ' ' order by r::regrole::text)
      from unnest(p.polroles) r),
    pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
  from pg_policy p join pg_class c on c.oid = p.polrelid
    join pg_namespace n on n.oid = c.relnamespace
  where n.oid in (to_regnamespace('public'), to_regnamespace('queue'), to_regnamespace('realtime'))
  union all
  select format('function %s.%s(%s) owner=%s grants=%s %s', o.nspname, f.proname,
    pg_get_function_identity_arguments(f.oid),
    pg_get_userbyid(f.proowner), (select string_agg(a::text, ' ' order by a::text)
      from unnest(f.proacl) a),
    -- where the server has it
    replace(pg_get_functiondef(f.oid), E' SET default_toast_compression TO ''lz4''\n', ''))
  from pg_proc f join ours o on o.oid = f.pronamespace where f.prokind = 'f'
  union all
  select format('type %s.%s %s', o.nspname, t.typname,
    (select string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', '
    order by a.attnum) from pg_attribute a where a.attrelid = t.typrelid))
  from pg_type t join ours o on o.oid = t.typnamespace join pg_class c on c.oid = t.typrelid
    and c.relkind = 'c'
  union all
  select format('comment %s %s', (x).type || ' ' || (x).identity, description)
  from (select pg_identify_object(classoid, objoid, objsubid) as x, description from pg_description
    where objoid >= 16384) as d
  where (x).schema in (select nspname from ours) or (x).type = 'schema'
    and (x).identity in (select nspname from ours)
  union all
  select format('published %s %s.%s', pubname, schemaname, tablename) from pg_publication_tables
    where to_regnamespace(quote_ident(schemaname)) in (to_regnamespace('public'),
    to_regnamespace('queue'))
  union all
  select format('role %s login=%s inherit=%s member of %s', rolname, rolcanlogin, rolinherit,
    (select string_agg(m.roleid::regrole::text, ' ' order by m.roleid::regrole::text)
      from pg_auth_members m where m.member = r.oid))
  from pg_roles r where rolname in ('anon', 'authenticated', 'service_role', 'authenticator',
    'job_worker')
) as lines order by line collate "C"
"""


def catalogue(url: str, schemas: Schemas = Schemas()) -> list[str]:  # noqa: B008 - frozen
    """List what the clients' and the engine's schema hold, their grants, policies and comments."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set search_path = ''")
        query = rewrite(QUERY, schemas)
        return [row[0] for row in connection.execute(query.encode()).fetchall()]


def differences(left: list[str], right: list[str]) -> list[str]:
    """Print what only one of two catalogues holds, `-` for the left one."""
    return sorted(
        [f"- {line}" for line in set(left) - set(right)]
        + [f"+ {line}" for line in set(right) - set(left)],
        key=lambda line: line[2:],
    )
