// Chooses a function for a call by the name of the function and the names of the arguments.

import { Refusal, leftOut } from "./errors.mjs";

// `call` has the schema and name of the function, and the names of the arguments.
export function chooseFunction(call, functions) {
  const here = functions.filter(({ schema }) => schema === call.schema);
  const overloaded = here.filter(({ name }) => name === call.name);
  const found = overloaded.filter((one) => takes(one, call));
  if (found.length > 1) throw ambiguous(found);
  if (found.length === 1) return found[0];
  if (overloaded.some(isUnnamed)) throw leftOut("functions with a parameter without a name");
  return unknown(call);
}

const isUnnamed = ({ params }) => params.some(({ name }) => name === "");

function takes({ params }, { keys }) {
  const names = new Set(params.map(({ name }) => name));
  const required = params.filter((one) => one.required);
  return required.every(({ name }) => keys.includes(name)) && keys.every((key) => names.has(key));
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

function unknown({ schema, name, keys }) {
  const sorted = [...keys].sort();
  const listed = sorted.length > 0 ? `(${sorted.join(", ")})` : " without parameters";
  const plural = sorted.length > 1 ? "s" : "";
  const parameters = sorted.length > 0 ? ` with parameter${plural} ${sorted.join(", ")}` : listed;
  throw new Refusal(404, {
    code: "PGRST202",
    message: `Could not find the function ${schema}.${name}${listed} in the schema cache`,
    details:
      `Searched for the function ${schema}.${name}${parameters} or with a single unnamed ` +
      "json/jsonb parameter, but no matches were found in the schema cache.",
  });
}
