// Parses a request to /rest/v1 as PostgREST does, or throws its error.

import { Refusal } from "./errors.mjs";
import { acceptedOf, mediaOf } from "./media.mjs";
import { payloadOf } from "./payload.mjs";
import { preferencesOf } from "./preferences.mjs";
import { decoded, readQuery, topRange } from "./query.mjs";
import { settings } from "./settings.mjs";
import { ALL } from "./ranges.mjs";
import { claimsOf } from "./tokens.mjs";

const KINDS = {
  GET: "read",
  HEAD: "read",
  POST: "insert",
  PUT: "upsert",
  PATCH: "update",
  DELETE: "delete",
};
const READS = ["GET", "HEAD"];

export async function understood(request) {
  const url = new URL(request.url);
  const { method, headers } = request;
  const claims = claimsOf(request);
  const prefers = preferencesOf(headers.get("prefer"));
  const { name, isCall } = placeOf(url);
  const { schema, isAsked } = schemaOf(request);
  const isGet = READS.includes(method);
  const kind = kindOf(method, name, isCall);
  const query = readQuery(url.search, isCall && isGet);
  const range = topRange(request, query.ranges);
  if (kind === "upsert" && (range.lower !== ALL.lower || range.upper !== ALL.upper)) {
    const message = "limit/offset querystring parameters are not allowed for PUT";
    throw new Refusal(400, { code: "PGRST114", message });
  }
  return {
    claims,
    prefers,
    method,
    isGet,
    isCall,
    name,
    schema,
    isAsked,
    kind,
    query,
    range,
    headers,
    isHead: method === "HEAD",
    path: url.pathname.slice("/rest/v1".length),
    accepted: acceptedOf(headers.get("accept")),
    ...(await givenBy(request, { kind, isCall, isGet, query })),
  };
}

// Parse the name of a table or a function from the URL.
function placeOf(url) {
  const [first, ...rest] = url.pathname.slice("/rest/v1/".length).split("/").map(decoded);
  if (rest.length === 0) return { name: first, isCall: false };
  if (first === "rpc" && rest.length === 1) return { name: rest[0], isCall: true };
  const message = "Invalid path specified in request URL";
  throw new Refusal(404, { code: "PGRST125", message });
}

function kindOf(method, name, isCall) {
  const refused = (code, message) => new Refusal(405, { code, message });
  if (isCall) {
    if ([...READS, "POST"].includes(method)) return "call";
    throw refused("PGRST101", `Cannot use the ${method} method on RPC`);
  }
  if (KINDS[method] && (name !== "" || READS.includes(method))) return KINDS[method];
  throw refused("PGRST117", `Unsupported HTTP method: ${method}`);
}

function schemaOf({ method, headers }) {
  const profile = headers.get(READS.includes(method) ? "accept-profile" : "content-profile");
  const [first, ...others] = settings.schemas;
  if (profile === null) return { schema: first, isAsked: others.length > 0 };
  if (settings.schemas.includes(profile)) return { schema: profile, isAsked: true };
  throw new Refusal(406, {
    code: "PGRST106",
    message: `Invalid schema: ${profile}`,
    hint: `Only the following schemas are exposed: ${settings.schemas.join(", ")}`,
  });
}

async function givenBy(request, { kind, isCall, isGet, query }) {
  if (isGet && isCall)
    return { fields: query.parameters, keys: [...new Set(query.parameters.map(([name]) => name))] };
  if (isGet || kind === "delete") return { body: null, keys: [] };
  const bytes = Buffer.from(await request.arrayBuffer());
  const media = mediaOf(request.headers.get("content-type") ?? "application/json");
  const columns = kind === "upsert" ? null : query.columns;
  return payloadOf(bytes, media, { isCall, columns });
}
