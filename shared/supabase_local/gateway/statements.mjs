// SQL statements for a plan. A statement is a read, change or call, inside a wrapper that returns
// the whole response in one row.

import { SOURCE } from "./plan.mjs";
import { columnOf, ident, list, nothing, qualified, raw, sql, value } from "./sql.mjs";

const source = ident(SOURCE);
const setting = (name) => raw(`nullif(current_setting('${name}', true), '')`);

// Alias by which the SQL refers to the columns of a node.
const nameOf = (node) => (node.alias_ ? { name: node.alias_ } : node.from);

const where = (conditions) =>
  conditions.length > 0 ? sql` where ${list(conditions, " and ")}` : nothing;

export function readStatement(node) {
  const of = nameOf(node);
  const isAll = node.select.length === 0 && node.children.length === 0;
  const own = isAll ? [columnOf(of, "*")] : node.select.map((one) => selectedOf(of, one));
  const columns = [...own, ...node.children.flatMap(shownOf)];
  const conditions = [...node.where.map((one) => conditionOf(of, one)), ...node.joins.map(joinOf)];
  return sql`select ${list(columns)}${fromOf(node)}${list(node.children.map(joined), "")}${where(
    conditions,
  )} ${orderOf(of, node.order)} ${rowsOf(node.range)}`;
}

function selectedOf(of, { field, cast, alias }) {
  const found = fieldOf(of, field);
  const typed = cast ? sql`cast(${found} as ${raw(cast)})` : found;
  return alias ? sql`${typed} as ${ident(alias)}` : typed;
}

function fieldOf(of, { name, path, toJson }) {
  const column = columnOf(of, name);
  if (path.length === 0) return column;
  const steps = path.map(({ arrow, key, index }) =>
    key === undefined ? sql`${raw(arrow)}${value(index)}::int` : sql`${raw(arrow)}${value(key)}`,
  );
  return sql`${toJson ? sql`to_jsonb(${column})` : column}${list(steps, "")}`;
}

// If no columns of an embedded table are selected, the table only restricts the rows of its parent.
const isBare = (node) => node.select.length === 0 && node.children.every(isBare);

function shownOf(child) {
  const inner = ident(child.inner);
  const name = ident(child.alias ?? child.name);
  if (isBare(child)) return [];
  if (child.relationship.isToOne) return [sql`row_to_json(${inner}.*)::jsonb as ${name}`];
  return [sql`coalesce(${inner}.${inner}, '[]') as ${name}`];
}

function joined(child) {
  const inner = ident(child.inner);
  const isInner = child.join === "inner";
  const read = readStatement(child);
  const join = raw(isInner ? " inner join lateral (" : " left join lateral (");
  if (child.relationship.isToOne) return sql`${join}${read}) as ${inner} on true`;
  const on = isInner ? sql`${inner} is not null` : raw("true");
  const rows = sql`select json_agg(${inner})::jsonb as ${inner}`;
  return sql`${join}${rows} from (${read}) as ${inner}) as ${inner} on ${on}`;
}

function fromOf({ from, alias_: alias }) {
  return sql` from ${qualified(from)}${alias ? sql` as ${ident(alias)}` : nothing}`;
}

const joinOf = ([[of, column], [other, its]]) =>
  sql`${columnOf(of, column)} = ${columnOf(other, its)}`;

function orderOf(of, terms) {
  if (terms.length === 0) return nothing;
  const each = terms.map(({ field, direction, nulls }) => {
    return sql`${fieldOf(of, field)}${raw([direction, nulls].map((word) => (word ? ` ${word}` : "")).join(""))}`;
  });
  return sql`order by ${list(each)}`;
}

function rowsOf({ limit, offset }) {
  if (limit === null && offset === 0) return nothing;
  return sql`limit ${limit === null ? raw("all") : value(String(limit))} offset ${value(String(offset))}`;
}

function conditionOf(of, condition) {
  const not = raw(condition.not ? "not " : "");
  if (condition.conditions) {
    const all = condition.conditions.map((one) => conditionOf(of, one));
    return sql`${not}(${list(all, ` ${condition.operator} `)})`;
  }
  return sql`${not}${fieldOf(of, condition.field)} ${rightOf(condition)}`;
}

function rightOf({ values, is, operator, value: text }) {
  if (values)
    return values.length === 1 && values[0] === ""
      ? raw("= any('{}')")
      : sql`= any (${value(arrayOf(values))})`;
  if (is) return raw(`is ${is}`);
  const given = value(["like", "ilike"].includes(operator) ? text.replaceAll("*", "%") : text);
  return sql`${raw(operator)} ${given}`;
}

function arrayOf(values) {
  const escaped = (text) => text.replaceAll("\0", "").replace(/[\\"]/g, "\\$&");
  return `{${values.map((one) => `"${escaped(one)}"`).join(",")}}`;
}

// Count all rows that match, regardless of `limit` and `offset`.
export function countStatement(node) {
  const inner = node.children.filter(({ join }) => join === "inner");
  return sql`select 1${fromOf(node)}${where([
    ...node.where.map((one) => conditionOf(nameOf(node), one)),
    ...node.joins.map(joinOf),
    ...inner.map((child) => sql`exists (${countStatement(child)})`),
  ])}`;
}

// Aggregate the rows of `_postgrest_t` to the body of a response.
export function bodyOf(kind, returned) {
  if (kind === "nothing") return raw("''::text");
  const isOne = kind === "object" || (returned && !returned.is_set);
  // If a function returns a set of plain values, an object response is a row with one column.
  const isScalar = returned && !returned.is_row && !(kind === "object" && returned.is_set);
  const rows = raw(isScalar ? "json_agg(_postgrest_t.pgrst_scalar)" : "json_agg(_postgrest_t)");
  return isOne ? sql`coalesce(${rows}->0, 'null')` : sql`coalesce(${rows}, '[]')`;
}

const overrides = sql`coalesce(${setting("response.headers")}, ${setting("response.status")})`;

// All rows of the statement `first`, unchanged.
export const allRows = sql`select * from ${source}`;

// Return the response of a statement in one row. `rows` reads from `first`, which is the read,
// change or call.
export function whole({ first, rows, body, count = null, isSingleRow = false, isUpsert = false }) {
  const counted = count ? sql`, pgrst_source_count as (${count})` : nothing;
  const total = raw(count ? "(select count(*)::int from pgrst_source_count)" : "null::int");
  const number = raw(isSingleRow ? "1" : "count(_postgrest_t)::int");
  const inserted = isUpsert ? sql`${setting("pgrst.inserted")}::int` : raw("null::int");
  return sql`with ${source} as (${first})${counted}
    select ${total} as total, ${number} as rows, ${body} as body, ${overrides} as overrides,
      ${inserted} as inserted
    from (${rows}) _postgrest_t`;
}

// Columns that a change returns with `returning`. If the request selects no columns, only the
// number of rows is needed.
const returning = (table, columns) =>
  columns.length > 0
    ? sql` returning ${list(columns.map((name) => columnOf(table, name)))}`
    : raw(" returning 1");

const inserted = (isMore) =>
  sql`set_config('pgrst.inserted', (coalesce(${setting("pgrst.inserted")}::int, 0) ${raw(
    isMore ? "+ 1" : "- 1",
  )})::text, true) <> ${raw(isMore ? "'0'" : "'-1'")}`;

export function insertStatement({ table, columns, body, conflict, returned }) {
  const names = list(columns.map(({ name }) => ident(name)));
  const into = columns.length > 0 ? sql`${qualified(table)} (${names})` : qualified(table);
  const isCounted = conflict?.resolution === "merge-duplicates";
  const taken = list(columns.map(({ name }) => columnOf({ name: "pgrst_body" }, name)));
  return list(
    [
      sql`insert into ${into} select ${taken} ${rowsOfBody(body, columns)}`,
      where(isCounted ? [inserted(true)] : []),
      conflictOf(conflict, columns, isCounted),
      returning(table, returned),
    ],
    "",
  );
}

function conflictOf(conflict, columns, isCounted) {
  if (!conflict || conflict.columns.length === 0) return nothing;
  const at = sql` on conflict (${list(conflict.columns.map(ident))})`;
  if (conflict.resolution === "ignore-duplicates" || columns.length === 0)
    return sql`${at} do nothing`;
  const sets = columns.map(({ name }) => sql`${ident(name)} = excluded.${ident(name)}`);
  return sql`${at} do update set ${list(sets)}${isCounted ? where([inserted(false)]) : nothing}`;
}

export function updateStatement(given) {
  const { table, columns, body, conditions, returned } = given;
  if (columns.length === 0) {
    const names = returned.map((name) => columnOf({ name: table.name }, name));
    const all = names.length > 0 ? list(names) : raw("null");
    return sql`select ${all} from ${qualified(table)} where false`;
  }
  const of = { name: "pgrst_body" };
  const sets = columns.map(({ name }) => sql`${ident(name)} = ${columnOf(of, name)}`);
  const kept = where(conditions.map((one) => conditionOf(table, one)));
  const rows = rowsOfBody(body, columns);
  const change = sql`update ${qualified(table)} set ${list(sets)} ${rows}`;
  return sql`${change}${kept}${returning(table, returned)}`;
}

export function deleteStatement({ table, conditions, returned }) {
  const kept = conditions.map((one) => conditionOf(table, one));
  return sql`delete from ${qualified(table)}${where(kept)}${returning(table, returned)}`;
}

// Read the rows of a request's body as `pgrst_body`. Postgres parses the text that the caller sent.
function rowsOfBody(body, columns, { isOne = false } = {}) {
  const names = list(columns.map(({ name }) => ident(name)));
  const rows = rowsIn(columns, { isObject: /^[ \t\n\r]*\{/.test(body), isOne });
  return sql`from (select ${value(body)}::json as json_data) pgrst_payload,
    lateral (select ${names} from ${rows}) pgrst_body`;
}

function rowsIn(columns, { isObject, isOne }) {
  const of = raw("pgrst_payload.json_data");
  if (columns.length === 0)
    return isObject ? raw("(values (1)) as _") : sql`json_array_elements(${of}) as _`;
  const types = columns.map(({ name, type }) => sql`${ident(name)} ${raw(type)}`);
  const record = raw(`json_to_record${isObject ? "" : "set"}`);
  return sql`${record}(${of}) as _(${list(types)})${raw(isOne ? " limit 1" : "")}`;
}

// Call a function and return those columns of its rows that are needed.
export function callStatement(chosen, { call, returned }) {
  const isRow = chosen.is_row;
  const names = returned.map((name) => columnOf({ name: "pgrst_call" }, name));
  const columns = isRow
    ? names.length > 0
      ? list(names)
      : raw("*")
    : raw("pgrst_call.pgrst_scalar");
  const around = (given) =>
    isRow
      ? sql`${qualified(chosen)}(${given}) pgrst_call`
      : sql`(select ${qualified(chosen)}(${given}) pgrst_scalar) pgrst_call`;
  return sql`select ${columns} ${calledWith(chosen, call, around)}`;
}

function calledWith({ params }, { keys, body }, around) {
  const given = params.filter(({ name }) => keys.includes(name));
  if (given.length === 0) return sql`from ${around(nothing)}`;
  const passed = given.map(({ name, variadic }) => {
    const column = columnOf({ name: "pgrst_body" }, name);
    return sql`${raw(variadic ? "variadic " : "")}${ident(name)} := ${column}`;
  });
  const columns = given.map(({ name, taken }) => ({ name, type: taken }));
  const rows = rowsOfBody(body, columns, { isOne: true });
  return sql`${rows}, lateral ${around(list(passed))}`;
}
