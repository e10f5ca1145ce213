// The OpenAPI description of the schema, as far as clients of hosted projects use it.

import { Refusal } from "./errors.mjs";
import { nameOf } from "./media.mjs";

export function described({ accepted, isHead }) {
  if (!accepted.some(({ kind }) => ["openapi", "json", "any"].includes(kind))) {
    const message = `None of these media types are available: ${accepted.map(nameOf).join(", ")}`;
    throw new Refusal(406, { code: "PGRST107", message });
  }
  const body = { swagger: "2.0", info: { title: "PostgREST API", version: "16" }, paths: {} };
  const headers = { "content-type": "application/openapi+json; charset=utf-8" };
  return new Response(isHead ? null : JSON.stringify(body), { headers });
}
