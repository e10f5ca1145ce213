// The OpenAPI description of the schema, with the parts that clients of hosted projects use.

import { version } from "./versions.mjs";

export function described({ isHead }) {
  const info = { title: "PostgREST API", version: version.major };
  const body = JSON.stringify({ swagger: "2.0", info, paths: {} });
  return new Response(isHead ? null : body, {
    headers: { ...version.headers, "content-type": "application/openapi+json; charset=utf-8" },
  });
}
