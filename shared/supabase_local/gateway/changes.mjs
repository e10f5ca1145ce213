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
  const given = { table, body: asked.body, returned: isQuiet ? [] : neededOf(plan), conditions };
  if (kind === "delete") return deleteStatement(guarded("DELETE", given));
  const columns = asked.keys.map((name) => columnOf(table, name));
  if (kind === "update") return updateStatement(guarded("UPDATE", { ...given, columns }));
  const { resolution } = prefers;
  const conflict = resolution && { resolution, columns: query.onConflict ?? table.key };
  return insertStatement({ ...given, columns, conflict });
}

// Require a filter for updates and deletes like the library safeupdate of a hosted project.
function guarded(verb, given) {
  const changes = given.columns?.length !== 0; // a change without columns changes no row
  if (given.conditions.length > 0 || !changes) return given;
  const message = `${verb} requires a WHERE clause`;
  throw new Refusal(400, { code: "21000", message });
}

function columnOf(table, name) {
  const column = table.columns.get(name);
  if (column) return { name, type: column.nominal };
  const message = `Could not find the '${name}' column of '${table.name}' in the schema cache`;
  throw new Refusal(400, { code: "PGRST204", message });
}

// The columns that a request selects, or that join embedded tables.
function neededOf({ select, children }) {
  const names = select.map(({ field }) => field.name);
  if (names.includes("*")) return ["*"];
  const joined = children.flatMap(({ relationship: { columns } }) => columns.map(([one]) => one));
  return [...new Set([...names, ...joined])].sort();
}

// The columns of a function's rows that a request selects, filters by or joins with. Columns that
// only order the rows are not needed.
export function neededOfCall(plan) {
  const names = neededOf(plan);
  if (names.length === 0 || names[0] === "*") return names;
  return [...new Set([...names, ...filteredBy(plan)])].sort();
}

const filteredBy = ({ where, children }) => [
  ...where.flatMap(namesIn),
  ...children.flatMap(filteredBy),
];
const namesIn = ({ conditions, field }) =>
  conditions ? conditions.flatMap(namesIn) : [field.name];
