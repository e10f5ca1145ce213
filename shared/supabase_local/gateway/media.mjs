// Choice of the media type of a response from the types that the caller accepts.

import { Refusal, leftOut } from "./errors.mjs";

const TYPES = { json: "application/json", object: "application/vnd.pgrst.object+json" };
const LEFT_OUT = /^(text\/csv|application\/geo\+json|application\/vnd\.pgrst\.(plan|array).*)$/;

// Choose from an Accept header the first type that is supported, `json` or `object`. The root path
// returns the description of the schema, which has its own media type.
export function acceptedOf(header, { isRoot }) {
  const asked = (header ?? "*/*").split(",").map((one) => one.trim().toLowerCase());
  for (const one of asked) {
    const [type, ...parameters] = one.split(/\s*;\s*/);
    if (parameters.some((each) => each === "nulls=stripped")) throw leftOut("nulls=stripped");
    if (isRoot && type === "application/openapi+json") return "json";
    if ([TYPES.json, "*/*", "application/*"].includes(type)) return "json";
    if ([TYPES.object, "application/vnd.pgrst.object"].includes(type)) return "object";
  }
  const known = asked.find((one) => LEFT_OUT.test(one));
  if (known) throw leftOut(known);
  const message = `None of these media types are available: ${asked.join(", ")}`;
  throw new Refusal(406, { code: "PGRST107", message });
}

export const contentTypeOf = (kind) => `${TYPES[kind]}; charset=utf-8`;
