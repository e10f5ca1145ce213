// Statements that write, and the columns that they return.

import { Refusal } from "./errors.mjs";
import { resolved } from "./plan.mjs";
import { deleteStatement, insertStatement, updateStatement } from "./statements.mjs";

export function changeOf(asked, table, plan, catalogue) {
  const { kind, query, prefers } = asked;
  const node = { from: { schema: table.schema, name: table.name } };
  const own = ({ path }) => path.length === 0;
  const filters = query.filters.filter(own).map(({ condition }) => condition);
  const logic = query.logic.map(({ condition }) => condition);
  const conditions = [...filters, ...logic].map((one) => resolved(one, node, catalogue));
  const isQuiet = !prefers.return || prefers.return === "minimal";
  const returned = isQuiet ? [] : neededOf(plan, table.key);
  const defaults = prefers.missing === "default";
  const given = { table, body: asked.body, returned, defaults, conditions };
  if (kind === "delete") return deleteStatement(guarded("DELETE", given));
  const columns = asked.keys.map((name) => columnOf(table, name));
  if (kind === "update") return updateStatement(guarded("UPDATE", { ...given, columns }));
  if (kind === "upsert") return upsertOf({ ...given, columns }, asked, logic);
  const { resolution } = prefers;
  const conflict = resolution && { resolution, columns: query.onConflict ?? table.key };
  return insertStatement({ ...given, columns, conflict, conditions: [] });
}

// Require a condition, as the library safeupdate does in a hosted project's Data API.
function guarded(verb, given) {
  const changes = given.columns?.length !== 0; // a change without columns changes no row
  if (given.conditions.length > 0 || !changes) return given;
  const message = `${verb} requires a WHERE clause`;
  throw new Refusal(400, { code: "21000", message });
}

function columnOf(table, name) {
  const column = table.columns.get(name);
  if (column) return { name, type: column.nominal, default: column.default };
  const message = `Could not find the '${name}' column of '${table.name}' in the schema cache`;
  throw new Refusal(400, { code: "PGRST204", message });
}

// Upsert the row with the key in the URL.
function upsertOf(given, { query }, logic) {
  const { key } = given.table;
  const isOfKey =
    key.length > 0 &&
    query.filterNames.size === key.length &&
    key.every((name) => query.filterNames.has(name));
  const isEqual = ({ operator, every, not }) => operator === "=" && !every && !not;
  if (logic.length > 0 || !isOfKey || !given.conditions.every(isEqual)) {
    const message = "Filters must include all and only primary key columns with 'eq' operators";
    throw new Refusal(405, { code: "PGRST105", message });
  }
  const conflict = { resolution: "merge-duplicates", columns: key };
  return insertStatement({ ...given, conflict, defaults: false });
}

// The columns that are selected or join embedded resources, and the key for `Location`.
function neededOf({ select, children }, key) {
  const names = select.map(({ field }) => field.name);
  if (names.includes("*")) return ["*"];
  if (children.some(({ relationship }) => relationship.kind === "computed")) return ["*"];
  const joined = children.flatMap(({ relationship: { columns, junction } }) =>
    (junction?.source ?? columns).map(([column]) => column),
  );
  return [...new Set([...names, ...joined, ...key])].sort();
}

// The columns of a call's rows that are selected, filtered or used in joins. Columns for ordering
// are not needed.
export function neededOfCall(plan) {
  const names = neededOf(plan, []);
  if (names.length === 0 || names[0] === "*") return names;
  return [...new Set([...names, ...filteredBy(plan)])].sort();
}

const filteredBy = ({ where, children }) => [
  ...where.flatMap(namesIn),
  ...children.flatMap(filteredBy),
];
const namesIn = ({ conditions, embed, field }) =>
  conditions ? conditions.flatMap(namesIn) : [embed ? embed.inner : field.name];
