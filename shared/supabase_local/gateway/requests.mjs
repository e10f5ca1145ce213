// Parses a request to /rest/v1 in the same way as PostgREST, or throws the error that PostgREST
// returns.

import { unescape } from "node:querystring";
import { Refusal, leftOut } from "./errors.mjs";
import { acceptedOf } from "./media.mjs";
import { payloadOf } from "./payload.mjs";
import { preferencesOf } from "./preferences.mjs";
import { readQuery } from "./query.mjs";
import { settings } from "./settings.mjs";
import { claimsOf } from "./tokens.mjs";

const KINDS = { GET: "read", HEAD: "read", POST: "insert", PATCH: "update", DELETE: "delete" };
const READS = ["GET", "HEAD"];

export async function understood(request) {
  const url = new URL(request.url);
  const { method, headers } = request;
  const claims = claimsOf(request);
  const prefers = preferencesOf(headers.get("prefer"));
  const { name, isCall } = placeOf(url);
  const { schema, isAsked } = schemaOf(request);
  const kind = kindOf(method, name, isCall);
  if (headers.has("range")) throw leftOut("the header Range, in place of `limit` and `offset`");
  const query = readQuery(url.search);
  const hasBody = !READS.includes(method) && kind !== "delete";
  return {
    claims,
    prefers,
    method,
    isCall,
    name,
    schema,
    isAsked,
    kind,
    query,
    headers,
    isHead: method === "HEAD",
    path: url.pathname.slice("/rest/v1".length),
    accepts: acceptedOf(headers.get("accept"), { isRoot: !isCall && name === "" }),
    ...(hasBody ? await givenBy(request, { isCall, columns: query.columns }) : {}),
  };
}

// Parse the name of a table or function in the URL.
function placeOf(url) {
  const [first, ...rest] = url.pathname.slice("/rest/v1/".length).split("/").map(unescape);
  if (rest.length === 0) return { name: first, isCall: false };
  if (first === "rpc" && rest.length === 1) return { name: rest[0], isCall: true };
  const message = "Invalid path specified in request URL";
  throw new Refusal(404, { code: "PGRST125", message });
}

function kindOf(method, name, isCall) {
  const refused = (code, message) => new Refusal(405, { code, message });
  if (isCall) {
    if (method === "POST") return "call";
    if (READS.includes(method)) throw leftOut(`calls of a function by ${method}`);
    throw refused("PGRST101", `Cannot use the ${method} method on RPC`);
  }
  if (method === "PUT") throw leftOut("the method PUT");
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

async function givenBy(request, of) {
  const bytes = Buffer.from(await request.arrayBuffer());
  return payloadOf(bytes, request.headers.get("content-type") ?? "application/json", of);
}
