// Chooses the function for a call by its name and the names of its arguments.

import { Refusal } from "./errors.mjs";

// `call` has the name, the schema, the argument names, whether it is a GET, and the body's kind.
export function chooseFunction(call, functions) {
  const here = functions.filter(({ schema }) => schema === call.schema);
  const overloaded = here.filter(({ name }) => name === call.name);
  const found = overloaded.filter((one) => takes(one, call));
  if (found.length > 1) throw ambiguous(found);
  if (found.length === 1) return found[0];
  const whole = overloaded.filter((one) => takesWhole(one, call));
  if (whole.length > 1) throw ambiguous(whole);
  return whole[0] ?? unknown(call);
}

function takes({ params }, { keys, raw }) {
  if (params.length === 0) return keys.length === 0 && !raw;
  const names = new Set(params.map(({ name }) => name));
  const required = params.filter((one) => one.required);
  return required.every(({ name }) => keys.includes(name)) && keys.every((key) => names.has(key));
}

function takesWhole({ params: [first, ...more] }, { isGet, fields, raw }) {
  if (first?.name !== "" || more.length > 0 || isGet || fields) return false;
  return raw ? first.type === raw : ["json", "jsonb"].includes(first.type);
}

function ambiguous(found) {
  const signature = ({ schema, name, params }) =>
    `${schema}.${name}(${params.map((one) => `${one.name} => ${one.type}`).join(", ")})`;
  const ordered = found.toSorted(
    (one, other) =>
      one.params.length - other.params.length || (signature(one) < signature(other) ? -1 : 1),
  );
  const several = ordered.map(signature).join(", ");
  return new Refusal(300, {
    code: "PGRST203",
    message: `Could not choose the best candidate function between: ${several}`,
    hint:
      "Try renaming the parameters or the function itself in the database so function " +
      "overloading can be resolved",
  });
}

function unknown(call) {
  const { schema, name, keys, isGet, raw, fields } = call;
  const sorted = [...keys].sort();
  const listed = sorted.length > 0 ? `(${sorted.join(", ")})` : " without parameters";
  const plural = sorted.length > 1 ? "s" : "";
  const parameters = sorted.length > 0 ? ` with parameter${plural} ${sorted.join(", ")}` : listed;
  const asked = `${schema}.${name}${raw ? "" : listed}`;
  const isJson = !isGet && !fields;
  const unnamed = ` with a single unnamed ${raw ?? "json/jsonb"} parameter`;
  const searched = raw ? unnamed : parameters + (isJson ? ` or${unnamed}` : "");
  throw new Refusal(404, {
    code: "PGRST202",
    message: `Could not find the function ${asked} in the schema cache`,
    details:
      `Searched for the function ${schema}.${name}${searched}, but no matches were found in ` +
      "the schema cache.",
  });
}
