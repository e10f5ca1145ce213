// What the exposed schemas hold, as PostgREST's schema cache has it: functions with their
// parameters, columns with their types, roles with their timeouts.

const FUNCTIONS = `
  select n.nspname as schema, p.proname as name, p.provolatile as volatility, p.proretset as is_set,
    p.prorettype = 'void'::pg_catalog.regtype as is_void,
    t.typtype = 'c' or coalesce(p.proargmodes::text[] && '{t,b,o}', false) as is_row,
    coalesce((
      select pg_catalog.json_agg(pg_catalog.json_build_object(
        'name', coalesce(p.proargnames[a.place], ''),
        'type', pg_catalog.format_type(a.type, -1),
        'required', a.nth <= p.pronargs - p.pronargdefaults) order by a.place)
      from (
        select ordinality as place, type, row_number() over (order by ordinality) as nth
        from unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) with ordinality as u (type)
        where coalesce(p.proargmodes[ordinality], 'i') in ('i', 'b', 'v')) as a
    ), '[]') as params
  from pg_catalog.pg_proc as p
  join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
  join pg_catalog.pg_type as t on t.oid = p.prorettype
  where n.nspname = any ($1) and p.prokind = 'f' and p.prorettype <> 'trigger'::pg_catalog.regtype`;

const COLUMNS = `
  select n.nspname as schema, c.relname as table,
    pg_catalog.json_object_agg(a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)) as types
  from pg_catalog.pg_class as c
  join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
  join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  where n.nspname = any ($1) and c.relkind in ('r', 'v', 'm', 'f', 'p')
  group by 1, 2`;

const ROLES = `
  select roles.rolname as role, pg_has_role('authenticator', roles.oid, 'member') as may, (
    select split_part(setting, '=', 2) from unnest(roles.rolconfig) as setting
    where setting like 'statement_timeout=%'
  ) as timeout
  from pg_catalog.pg_roles as roles`;

export async function readCatalogue(driver, { schemas }) {
  const [functions, columns, roles] = await driver.begin("read only", async (sql) => [
    // types are named with their schema, whatever the caller's path
    ...(await Promise.all([
      sql`set local search_path = ''`,
      sql.unsafe(FUNCTIONS, [schemas]),
      sql.unsafe(COLUMNS, [schemas]),
    ]).then(([, ...rows]) => rows)),
    await sql.unsafe(ROLES),
  ]);
  return {
    functions,
    tables: new Map(columns.map(({ schema, table, types }) => [`${schema}.${table}`, types])),
    roles: timeoutsOf(roles),
  };
}

// The roles a request may take, each with its statement_timeout; null for those it may not.
function timeoutsOf(rows) {
  // a role without a setting of its own keeps that of authenticator, who signs in for it
  const inherited = rows.find(({ role }) => role === "authenticator")?.timeout ?? "0";
  return new Map(
    rows.map(({ role, may, timeout }) => [
      role,
      may && role !== "authenticator" ? (timeout ?? inherited) : null,
    ]),
  );
}
