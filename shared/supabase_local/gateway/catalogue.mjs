// The exposed schemas, like the schema cache of PostgREST. The catalogue has tables with columns
// and keys, functions with parameters and settings, and roles with their settings.

import { relationshipsOf } from "./relationships.mjs";
import { version } from "./versions.mjs";

const TABLES = `
  select n.nspname as schema, c.relname as name, c.relkind in ('v', 'm') as is_view,
    coalesce((
      select json_agg(k.attname order by k.attname)
      from pg_constraint as p
      join pg_attribute as k on k.attrelid = c.oid and k.attnum = any (p.conkey)
      where p.conrelid = c.oid and p.contype = 'p'
    ), '[]') as key,
    coalesce(json_agg(json_build_object(
      'name', a.attname,
      'nominal', format_type(a.atttypid, a.atttypmod))
      order by a.attnum) filter (where a.attname is not null), '[]') as columns
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  left join pg_attribute as a
    on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  where n.nspname = any ($1) and c.relkind in ('r', 'v', 'm', 'f', 'p') and not c.relispartition
  group by n.nspname, c.oid`;

const FUNCTIONS = `
  select n.nspname as schema, p.proname as name, p.provolatile as volatility,
    p.proretset as is_set, rn.nspname = 'pg_catalog' and r.typname = 'void' as is_void,
    r.typtype = 'c' or coalesce(p.proargmodes::text[] && '{t,b,o}', false) as is_row,
    coalesce(rel.relname, r.typname) as returned,
    coalesce(p.proconfig, '{}') as settings, coalesce((
      select json_agg(json_build_object(
        'name', coalesce(a.name, ''), 'type', a.type::regtype::text,
        'taken', case a.type::regtype
          when 'bit'::regtype then 'bit varying' when 'bit[]'::regtype then 'bit varying[]'
          when 'character'::regtype then 'character varying'
          when 'character[]'::regtype then 'character varying[]'
          else a.type::regtype::text
        end,
        'required', a.place <= p.pronargs - p.pronargdefaults,
        'variadic', coalesce(a.mode = 'v', false)) order by a.place)
      from (
        select u.type, u.place, i.name, i.mode
        from unnest(p.proargtypes::oid[]) with ordinality as u (type, place)
        left join (
          select m.name, m.mode, row_number() over (order by m.at) as place
          from unnest(p.proargnames, p.proargmodes) with ordinality as m (name, mode, at)
          where coalesce(m.mode, 'i') in ('i', 'b', 'v')
        ) as i on i.place = u.place) as a
    ), '[]') as params
  from pg_proc as p
  join pg_namespace as n on n.oid = p.pronamespace
  join pg_type as t on t.oid = p.prorettype
  join pg_type as r on r.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
  join pg_namespace as rn on rn.oid = r.typnamespace
  left join pg_class as rel on rel.oid = r.typrelid
  where n.nspname = any ($1) and p.prokind = 'f' and r.typname <> 'trigger'`;

const ROLES = `
  select r.rolname as role, pg_has_role('authenticator', r.oid, 'member') as may, (
    select coalesce(json_object_agg(split_part(of, '=', 1),
      substr(of, strpos(of, '=') + 1)), '{}')
    from unnest(r.rolconfig) as of
    join pg_settings as s on s.name = split_part(of, '=', 1)
      and (s.context = 'user' or has_parameter_privilege('authenticator', s.name, 'set'))
  ) as settings
  from pg_roles as r`;

// Settings for PostgREST that the database stores, from `alter role authenticator set pgrst.…`.
const CONFIG = `
  select distinct on (1) split_part(of, '=', 1) as name, substr(of, strpos(of, '=') + 1) as value
  from pg_db_role_setting as s
  cross join unnest(s.setconfig) as of
  where s.setrole = (select oid from pg_roles where rolname = 'authenticator')
    and (s.setdatabase = 0 or s.setdatabase = (
      select d.oid from pg_database as d where d.datname = current_database()))
    and of like 'pgrst.%'
  order by 1, s.setdatabase desc`;
const MAX_ROWS = 1000; // default of a hosted project

// Settings of a function that PostgREST applies before the call (`db-hoisted-tx-settings`).
const HOISTED =
  /^(statement_timeout|plan_filter\.statement_cost_limit|default_transaction_isolation)=/;

export const keyOf = ({ schema, name }) => `${schema}.${name}`;

export async function readCatalogue(driver, { schemas }) {
  const read = await driver.begin("read only", async (tx) => {
    // With an empty search_path, Postgres prints type names with their schema.
    await tx.unsafe("set local search_path = ''");
    return Promise.all([
      tx.unsafe(TABLES, [schemas]),
      tx.unsafe(FUNCTIONS, [schemas]),
      tx.unsafe(ROLES),
      tx.unsafe(CONFIG),
      relationshipsOf(tx, schemas),
    ]);
  });
  const [tables, functions, roles, config, relationships] = read;
  const configured = (name) => config.find((one) => one.name === `pgrst.${name}`)?.value;
  return {
    tables: new Map(tables.map((table) => [keyOf(table), tableOf(table)])),
    functions: functions.map(functionOf),
    roles: rolesOf(roles),
    relationships,
    preRequest: functionNamed(configured("db_pre_request")),
    hasShortErrors: version.hasShortErrors && configured("client_error_verbosity") === "minimal",
    maxRows: Number(configured("db_max_rows") ?? MAX_ROWS),
  };
}

function functionNamed(text) {
  if (!text) return null;
  const [first, ...rest] = text.split(".");
  return rest.length > 0 ? { schema: first, name: rest.join(".") } : { name: first };
}

const tableOf = (row) => ({
  ...row,
  columns: new Map(row.columns.map((column) => [column.name, column])),
});

function functionOf(row) {
  const hoisted = row.settings.filter((setting) => HOISTED.test(setting));
  const pairs = hoisted.map((setting) => [
    setting.slice(0, setting.indexOf("=")),
    setting.slice(setting.indexOf("=") + 1),
  ]);
  return { ...row, settings: Object.fromEntries(pairs) };
}

// Map of the roles that a request may take, with their settings. The value is null for all other
// roles. Settings of authenticator, the role that signs in, are the defaults for all roles.
function rolesOf(rows) {
  const inherited = rows.find(({ role }) => role === "authenticator")?.settings ?? {};
  return new Map(
    rows.map(({ role, may, settings }) => [
      role,
      may && role !== "authenticator" ? { ...inherited, ...settings } : null,
    ]),
  );
}
