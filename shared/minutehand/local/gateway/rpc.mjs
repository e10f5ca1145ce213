// Calls functions as PostgREST does: the body goes to Postgres as it came, as text, and the answer
// comes back as Postgres wrote it. Rows of a function that are to be filtered, ordered or embedded
// are left to lite (null).

import { Refusal } from "./errors.mjs";
import { appliedPreferences } from "./preferences.mjs";
import { settings } from "./settings.mjs";

const UNASKED = ["apikey", "columns", "on_conflict"];

export const ident = (name) => `"${name.replaceAll('"', '""')}"`;

export async function callFunction(call, catalogue, transact) {
  const chosen = chooseFunction(call, catalogue.functions);
  const [asked] = [...call.filters, ...call.others].filter(([name]) => !UNASKED.includes(name));
  if (chosen.is_row && (asked || call.headers.has("range"))) return null;
  if (asked && asked[1] !== "*") {
    const column = asked[0] === "select" ? asked[1] : asked[0];
    const message = `column ${chosen.name}.${column} does not exist`;
    throw new Refusal(400, { code: "42703", message });
  }
  const { text, values } = statementOf(chosen, call);
  const readOnly = call.isGet || chosen.volatility !== "v";
  const row = await transact(text, values, readOnly ? "read only" : "");
  return answerOf(chosen, call, row);
}

function chooseFunction(call, functions) {
  const named = functions.filter(
    ({ schema, name }) => schema === call.schema && name === call.name,
  );
  const found = call.raw ? [] : named.filter((one) => takes(one, call));
  if (found.length > 1) throw ambiguous(found);
  const wholes = call.isGet || call.arguments.length > 0 ? [] : [call.raw, "json", "jsonb"];
  const whole = named.find(({ params: [first, ...more] }) => {
    return first?.name === "" && more.length === 0 && wholes.includes(first.type);
  });
  return found[0] ?? whole ?? unknown(call);
}

function takes({ params }, { keys }) {
  const names = new Set(params.map(({ name }) => name));
  const required = params.filter((one) => one.required);
  return required.every(({ name }) => keys.includes(name)) && keys.every((key) => names.has(key));
}

function ambiguous(found) {
  const signature = ({ schema, name, params }) =>
    `${schema}.${name}(${params.map((one) => `${one.name} => ${one.type}`).join(", ")})`;
  const several = found.map(signature).join(", ");
  return new Refusal(300, {
    code: "PGRST203",
    message: `Could not choose the best candidate function between: ${several}`,
    hint:
      "Try renaming the parameters or the function itself in the database so function " +
      "overloading can be resolved",
  });
}

function unknown({ schema, name, keys, isGet, raw }) {
  const sorted = [...keys].sort();
  const listed = sorted.length > 0 ? `(${sorted.join(", ")})` : " without parameters";
  const plural = sorted.length > 1 ? "s" : "";
  const parameters = sorted.length > 0 ? ` with parameter${plural} ${sorted.join(", ")}` : listed;
  const asked = `${schema}.${name}${raw ? "" : listed}`;
  const unnamed = ` with a single unnamed ${raw ?? "json/jsonb"} parameter`;
  const searched = raw ? unnamed : parameters + (isGet ? "" : ` or${unnamed}`);
  throw new Refusal(404, {
    code: "PGRST202",
    message: `Could not find the function ${asked} in the schema cache`,
    details:
      `Searched for the function ${schema}.${name}${searched}, but no matches were found in ` +
      "the schema cache.",
  });
}

// The call itself, and around it one row: how many rows it gave, and all of them as text.
function statementOf(chosen, call) {
  const { text, values } = called(chosen, call);
  const body = chosen.is_row ? "_postgrest_t" : "_postgrest_t.pgrst_scalar";
  const all = `pg_catalog.json_agg(${body})`;
  const whole =
    chosen.is_set && !call.isSingle ? `coalesce(${all}, '[]')` : `coalesce(${all} -> 0, 'null')`;
  return {
    values,
    text: `with pgrst_source as (${text})
      select pg_catalog.count(*)::int as rows, (${whole})::text as body
      from (select * from pgrst_source) as _postgrest_t`,
  };
}

function called(chosen, call) {
  const name = `${ident(chosen.schema)}.${ident(chosen.name)}`;
  const given = chosen.params.filter((one) => call.keys.includes(one.name));
  const around = (list) =>
    chosen.is_row
      ? `${name}(${list}) as pgrst_call`
      : `(select ${name}(${list}) as pgrst_scalar) as pgrst_call`;
  const [first] = chosen.params;
  if (first?.name === "") {
    const whole = first.type === "bytea" ? "$1::bytea" : `$1::text::${first.type}`;
    return { text: `select pgrst_call.* from ${around(whole)}`, values: [call.body] };
  }
  if (given.length === 0) return { text: `select pgrst_call.* from ${around("")}`, values: [] };
  const passed = (of) =>
    given.map((one, index) => `${ident(one.name)} := ${of(one, index)}`).join(", ");
  if (call.arguments.length > 0) {
    const fields = Object.fromEntries(call.arguments);
    const values = given.map((one) => fields[one.name]);
    const cast = around(passed((one, i) => `$${i + 1}::text::${one.type}`));
    return { text: `select pgrst_call.* from ${cast}`, values };
  }
  const types = given.map((one) => `${ident(one.name)} ${one.type}`).join(", ");
  const record = /^\s*\{/.test(call.body) ? "json_to_record" : "json_to_recordset";
  return {
    text: `select pgrst_call.* from (
        select * from pg_catalog.${record}($1::text::json) as _(${types}) limit 1
      ) as pgrst_body, lateral ${around(passed((one) => `pgrst_body.${ident(one.name)}`))}`,
    values: [call.body],
  };
}

// What a caller is to know of an answer's form, the schema where there are several.
export function withType(headers, { resultType, schema }) {
  headers.set("content-type", headers.get("content-type") ?? resultType);
  if (settings.schemas.length > 1) headers.set("content-profile", schema);
}

function answerOf(chosen, call, row) {
  if (call.isSingle && row.rows !== 1) {
    throw new Refusal(406, {
      code: "PGRST116",
      message: "Cannot coerce the result to a single JSON object",
      details: `The result contains ${row.rows} rows`,
    });
  }
  const total = call.prefers.count ? row.rows : "*";
  const headers = new Headers({
    "content-range": `${row.rows > 0 ? `0-${row.rows - 1}` : "*"}/${total}`,
  });
  const applied = appliedPreferences(call.prefers, "call");
  if (applied) headers.set("preference-applied", applied);
  if (!chosen.is_void) withType(headers, call);
  const body = chosen.is_void || call.isHead ? null : row.body;
  return new Response(body, { status: chosen.is_void ? 204 : 200, headers });
}
