// SQL of a plan: the read, change or call, and a wrapper that returns the whole response in one
// row.

import { SOURCE } from "./plan.mjs";
import { columnOf, ident, list, literal, nothing, qualified, raw, sql, value } from "./sql.mjs";

const source = ident(SOURCE);
const setting = (name) => raw(`nullif(current_setting('${name}', true), '')`);

// Alias for a node's columns.
const nameOf = (node) =>
  node.alias_
    ? { name: node.alias_ }
    : node.relationship?.kind === "computed"
      ? { name: node.relationship.function.name }
      : node.from;

const where = (conditions) =>
  conditions.length > 0 ? sql` where ${list(conditions, " and ")}` : nothing;

function readStatement(node) {
  const of = nameOf(node);
  const isAll = node.select.length === 0 && node.children.length === 0;
  const own = isAll ? [columnOf(of, "*")] : node.select.map((one) => selectedOf(of, one));
  const columns = [...own, ...node.shown.flatMap(shownOf)];
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

function shownOf({ child, name, isEmpty }) {
  const inner = ident(child.inner);
  if (isEmpty) return [];
  if (child.relationship.isToOne) return [sql`row_to_json(${inner}.*)::jsonb as ${ident(name)}`];
  return [sql`coalesce(${inner}.${inner}, '[]') as ${ident(name)}`];
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

function fromOf({ from, alias_: alias, relationship, start }) {
  const { kind, junction } = relationship ?? {};
  const table = kind === "computed" ? rowsOfFunction(relationship, start) : qualified(from);
  const as = alias ? sql` as ${ident(alias)}` : nothing;
  return sql` from ${table}${as}${junction ? sql`, ${qualified(junction.table)}` : nothing}`;
}

// The row is cast to its type, because functions with the same name may take other types.
function rowsOfFunction(relationship, start) {
  const row = sql`${ident(start.name)}::${qualified(relationship.from)}`;
  return sql`${qualified(relationship.function)}(${row})`;
}

const joinOf = ([[of, column], [other, its]]) =>
  sql`${columnOf(of, column)} = ${columnOf(other, its)}`;

function orderOf(of, terms) {
  if (terms.length === 0) return nothing;
  const each = terms.map(({ relation, field, direction, nulls }) => {
    const place = fieldOf(relation ? { name: relation } : of, field);
    return sql`${place}${raw([direction, nulls].map((word) => (word ? ` ${word}` : "")).join(""))}`;
  });
  return sql`order by ${list(each)}`;
}

function rowsOf({ lower, upper }) {
  if (lower === 0 && upper === Infinity) return nothing;
  const limit = upper === Infinity ? raw("all") : value(String(1 + upper - lower));
  return sql`limit ${limit} offset ${value(String(lower))}`;
}

function conditionOf(of, condition, embedOf = isFound) {
  const not = raw(condition.not ? "not " : "");
  if (condition.conditions) {
    const all = condition.conditions.map((one) => conditionOf(of, one, embedOf));
    return sql`${not}(${list(all, ` ${condition.operator} `)})`;
  }
  if (condition.embed) return embedOf(condition);
  return sql`${not}${leftOf(of, condition)} ${rightOf(condition)}`;
}

const isFound = ({ embed, not }) =>
  sql`${ident(embed.inner)} is ${raw(not ? "" : "not ")}distinct from null`;

function leftOf(of, { field, search, language }) {
  const found = fieldOf(of, field);
  if (!search || field.type === "tsvector") return found;
  return language ? sql`to_tsvector(${value(language)}, ${found})` : sql`to_tsvector(${found})`;
}

function rightOf({ values, is, distinct, search, language, operator, every, value: text }) {
  if (values)
    return values.length === 1 && values[0] === ""
      ? raw("= any('{}')")
      : sql`= any (${value(arrayOf(values))})`;
  if (is) return raw(`is ${is}`);
  if (distinct !== undefined) return sql`is distinct from ${value(distinct)}`;
  if (search) {
    const of = language ? sql`${value(language)}, ` : nothing;
    return sql`@@ ${raw(search)}(${of}${value(text)})`;
  }
  const given = value(["like", "ilike"].includes(operator) ? text.replaceAll("*", "%") : text);
  return sql`${raw(operator)} ${every ? sql`${raw(every)}(${given})` : given}`;
}

function arrayOf(values) {
  const escaped = (text) => text.replaceAll("\0", "").replace(/[\\"]/g, "\\$&");
  return `{${values.map((one) => `"${escaped(one)}"`).join(",")}}`;
}

// Count all rows, without `limit` and `offset`.
export function countStatement(node) {
  const of = nameOf(node);
  const exists = (child) => sql`exists (${countStatement(child)})`;
  const asked = ({ embed, not }) => sql`${raw(not ? "" : "not ")}${exists(embed)}`;
  const inner = node.children.filter(({ join }) => join === "inner");
  return sql`select 1${fromOf(node)}${where([
    ...node.where.map((one) => conditionOf(of, one, asked)),
    ...node.joins.map(joinOf),
    ...inner.map(exists),
  ])}`;
}

// Aggregate the rows `_postgrest_t` to the body of a response.
export function bodyOf({ kind, strips }, returned) {
  if (kind === "nothing") return raw("''::text");
  const isOne = kind === "object" || (returned && !returned.is_set);
  // For a set of values, an object response is a row with one column.
  const isScalar = returned && !returned.is_row && !(kind === "object" && returned.is_set);
  const rows = raw(isScalar ? "json_agg(_postgrest_t.pgrst_scalar)" : "json_agg(_postgrest_t)");
  const whole = strips ? sql`json_strip_nulls(${rows})` : rows;
  return isOne ? sql`coalesce(${whole}->0, 'null')` : sql`coalesce(${whole}, '[]')`;
}

const RESPONSE_SETTINGS = sql`${setting("response.headers")} as headers,
  ${setting("response.status")} as status`;

export function wholeRead(node, body, count) {
  const counted = count ? sql`, pgrst_source_count as (${count})` : nothing;
  const total = raw(count ? "(select count(*) from pgrst_source_count)" : "null::bigint");
  return sql`with ${source} as (${readStatement(node)})${counted}
    select ${total} as total, count(_postgrest_t) as rows, ${body} as body, ${RESPONSE_SETTINGS}
    from (select * from ${source}) _postgrest_t`;
}

export function wholeCall(node, call, { body, count, isSingleRow }) {
  const counted = count ? sql`, pgrst_source_count as (${count})` : nothing;
  const total = raw(count ? "(select count(*) from pgrst_source_count)" : "null::bigint");
  const rows = raw(isSingleRow ? "1" : "count(_postgrest_t)");
  return sql`with ${source} as (${call})${counted}
    select ${total} as total, ${rows} as rows, ${body} as body, ${RESPONSE_SETTINGS}
    from (${readStatement(node)}) _postgrest_t`;
}

export function wholeChange(node, change, { body, isShown, key, location, isUpsert }) {
  const inserted = isUpsert ? sql`${setting("pgrst.inserted")}::int` : raw("null::int");
  const place = location
    ? sql`case when count(_postgrest_t) = 1 then array_to_json(${locationOf(key)})::text end`
    : raw("null::text");
  const rows = isShown ? readStatement(node) : sql`select * from ${source}`;
  return sql`with ${source} as (${change})
    select count(_postgrest_t) as rows, ${place} as location, ${body} as body, ${RESPONSE_SETTINGS},
      ${inserted} as inserted
    from (${rows}) _postgrest_t`;
}

const locationOf = (key) =>
  raw(`(
  with data as (select row_to_json(_) as row from ${SOURCE} as _ limit 1)
  select array_agg(json_data.key || '=' || coalesce('eq.' || json_data.value, 'is.null'))
  from data cross join json_each_text(data.row) as json_data
  where json_data.key in (${key.map(literal).join(", ") || "''"}))`);

// Columns that a change returns. Without `select` only the number of rows is needed.
const returning = (table, columns) =>
  columns.length > 0
    ? sql` returning ${list(columns.map((name) => columnOf(table, name)))}`
    : raw(" returning 1");

const inserted = (isMore) =>
  sql`set_config('pgrst.inserted', (coalesce(${setting("pgrst.inserted")}::int, 0) ${raw(
    isMore ? "+ 1" : "- 1",
  )})::text, true) <> ${raw(isMore ? "'0'" : "'-1'")}`;

export function insertStatement(given) {
  const { table, columns, body, conflict, conditions, returned, defaults } = given;
  const names = list(columns.map(({ name }) => ident(name)));
  const into = columns.length > 0 ? sql`${qualified(table)} (${names})` : qualified(table);
  const isCounted = conditions.length > 0 || conflict?.resolution === "merge-duplicates";
  const of = { name: "pgrst_body" };
  const kept = conditions.map((one) => conditionOf(of, one));
  const rows = rowsOfBody(body, columns, { defaults });
  const taken = list(columns.map(({ name }) => columnOf(of, name)));
  return list(
    [
      sql`insert into ${into} select ${taken} ${rows}`,
      where(isCounted ? [inserted(true), ...kept] : kept),
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
  const { table, columns, body, conditions, returned, defaults } = given;
  if (columns.length === 0) {
    const names = returned.map((name) => columnOf({ name: table.name }, name));
    const all = names.length > 0 ? list(names) : raw("null");
    return sql`select ${all} from ${qualified(table)} where false`;
  }
  const of = { name: "pgrst_body" };
  const sets = columns.map(({ name }) => sql`${ident(name)} = ${columnOf(of, name)}`);
  const kept = where(conditions.map((one) => conditionOf(table, one)));
  const rows = rowsOfBody(body, columns, { defaults });
  const change = sql`update ${qualified(table)} set ${list(sets)} ${rows}`;
  return sql`${change}${kept}${returning(table, returned)}`;
}

export function deleteStatement({ table, conditions, returned }) {
  const kept = conditions.map((one) => conditionOf(table, one));
  return sql`delete from ${qualified(table)}${where(kept)}${returning(table, returned)}`;
}

// Read the rows of a body as `pgrst_body`, parsed by Postgres from the caller's text.
function rowsOfBody(body, columns, { isOne = false, defaults = false }) {
  const isObject = /^[ \t\n\r]*\{/.test(body);
  const type = defaults ? "jsonb" : "json";
  const of = raw(defaults ? "pgrst_json_defs.val" : "pgrst_payload.json_data");
  const whole = defaults ? defaultsOf(columns, isObject) : nothing;
  const names = list(columns.map(({ name }) => ident(name)));
  const rows = rowsIn(of, columns, { type, isObject, isOne });
  return sql`from (select ${value(body)}::${raw(type)} as json_data) pgrst_payload, ${whole}
    lateral (select ${names} from ${rows}) pgrst_body`;
}

function rowsIn(of, columns, { type, isObject, isOne }) {
  if (columns.length === 0)
    return isObject ? raw("(values (1)) as _") : sql`${raw(`${type}_array_elements`)}(${of}) as _`;
  const types = columns.map(({ name, type: its }) => sql`${ident(name)} ${raw(its)}`);
  const record = raw(`${type}_to_record${isObject ? "" : "set"}`);
  return sql`${record}(${of}) as _(${list(types)})${raw(isOne ? " limit 1" : "")}`;
}

function defaultsOf(columns, isObject) {
  const pairs = columns
    .filter((one) => one.default)
    .map((one) => `${literal(one.name)}, ${one.default}`);
  const built = raw(`jsonb_build_object(${pairs.join(", ")})`);
  return isObject
    ? sql`lateral (select ${built} || pgrst_payload.json_data as val) pgrst_json_defs, `
    : sql`lateral (select jsonb_agg(${built} || elem) as val
        from jsonb_array_elements(pgrst_payload.json_data) elem) pgrst_json_defs, `;
}

// Call a function and return the needed columns of its rows.
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

function calledWith({ params }, { keys, body, fields, raw: type }, around) {
  const [first] = params;
  const alone = (one) => sql`from ${around(one)}`;
  if (params.length === 1 && first.name === "") {
    return alone(sql`${value(type === "bytea" ? hexOf(body) : body)}::${raw(first.type)}`);
  }
  const given = params.filter(({ name }) => keys.includes(name));
  if (given.length === 0) return alone(nothing);
  const passed = (of) =>
    list(
      given.map((one) => {
        const variadic = raw(one.variadic ? "variadic " : "");
        return sql`${variadic}${ident(one.name)} := ${of(one)}`;
      }),
    );
  if (fields) return alone(passed((one) => argumentOf(one, fields)));
  const columns = given.map(({ name, taken }) => ({ name, type: taken }));
  const rows = rowsOfBody(body, columns, { isOne: true });
  const lateral = around(passed(({ name }) => columnOf({ name: "pgrst_body" }, name)));
  return sql`${rows}, lateral ${lateral}`;
}

// The last of several values with one name is used, but all values for a variadic parameter.
function argumentOf({ name, taken, variadic }, fields) {
  const all = fields.filter(([one]) => one === name).map(([, text]) => text);
  const text = variadic ? value(arrayOf(all)) : value(all.at(-1));
  return sql`${text}${raw(variadic ? "::text[]" : "")}::${raw(taken)}`;
}

const hexOf = (bytes) => `\\x${bytes.toString("hex")}`;
