// A request to /rest/v1 as PostgREST understands it, or its refusal.

import { Refusal } from "./errors.mjs";
import { preferencesOf } from "./preferences.mjs";
import { settings } from "./settings.mjs";
import { claimsOf } from "./tokens.mjs";

const KINDS = { POST: "insert", PUT: "put", PATCH: "update", DELETE: "delete" };
const METHODS = ["GET", "HEAD", ...Object.keys(KINDS)];
const OBJECT = "application/vnd.pgrst.object";
const MEDIA = ["*/*", "application/*", "application/json", OBJECT, "application/vnd.pgrst.array"];
const OF_ROWS = ["select", "order", "limit", "offset"];
const FILTER =
  /^(not\.)?(eq|neq|gte?|lte?|i?like|i?match|is|isdistinct|in|cs|cd|ov|s[lr]|nx[lr]|adj|(p[lh]|w)?fts)(\([^)]*\))?\./;
const EMPTY = "[]"; // what PostgREST takes a body for that is neither an object nor an array

export async function understood(request) {
  const url = new URL(request.url);
  const [place, name, ...more] = url.pathname
    .slice("/rest/v1/".length)
    .split("/")
    .map(decodeURIComponent);
  const { method } = request;
  const isCall = place === "rpc" && name !== undefined;
  const claims = claimsOf(request);
  if (more.length > 0 || (name !== undefined && !isCall)) {
    throw refused(404, "PGRST125", "Invalid path specified in request URL");
  }
  if (isCall && !["GET", "HEAD", "POST"].includes(method)) {
    throw refused(405, "PGRST101", `Cannot use the ${method} method on RPC`);
  }
  if (!METHODS.includes(method))
    throw refused(405, "PGRST117", `Unsupported HTTP method: ${method}`);
  const prefers = preferencesOf(request.headers.get("prefer"));
  return {
    claims,
    isCall,
    method,
    prefers,
    name: isCall ? name : place,
    path: url.pathname.slice("/rest/v1".length),
    kind: isCall ? "call" : (KINDS[method] ?? "read"),
    headers: request.headers,
    query: url.searchParams,
    schema: schemaOf(request),
    isGet: method === "GET" || method === "HEAD",
    isHead: method === "HEAD",
    ...accepted(request.headers.get("accept") ?? "*/*", isCall),
    ...(await givenBy(request, url.searchParams, isCall)),
  };
}

function schemaOf({ method, headers }) {
  const profile = headers.get(method in KINDS ? "content-profile" : "accept-profile");
  if (profile === null) return settings.schemas[0];
  if (settings.schemas.includes(profile)) return profile;
  const hint = `Only the following schemas are exposed: ${settings.schemas.join(", ")}`;
  throw refused(406, "PGRST106", `Invalid schema: ${profile}`, { hint });
}

// The form of the answer: the first that is known of those asked for.
function accepted(accept, isCall) {
  const types = accept.split(",").map((type) => type.trim().toLowerCase());
  const plain = (type) =>
    type.split(";")[0].replace(/^(application\/vnd\.pgrst\.\w+)\+json$/, "$1");
  const known = isCall ? MEDIA : [...MEDIA, "text/csv"];
  const type = types.find((one) => known.includes(plain(one)));
  if (type === undefined) {
    const message = `None of these media types are available: ${types.join(", ")}`;
    throw refused(406, "PGRST107", message);
  }
  const form = plain(type).startsWith("application/vnd") ? plain(type) : "application/json";
  const said = form === "application/json" ? form : `${form}+json`;
  return { isSingle: form === OBJECT, resultType: `${said}; charset=utf-8` };
}

// What it gives: the body's text, and the names in it; a query gives its fields.
async function givenBy(request, query, isCall) {
  if (["GET", "HEAD"].includes(request.method)) {
    const given = [...query].filter(
      ([name, value]) => name !== "apikey" && !isOfRows(true, name, value),
    );
    return { body: "", keys: [...new Set(given.map(([name]) => name))], fields: query };
  }
  const bytes = new Uint8Array(await request.arrayBuffer());
  if (request.method === "DELETE") return { body: "", keys: [] };
  const [contentType] = (request.headers.get("content-type") ?? "application/json").split(";");
  if (contentType.trim() !== "application/json")
    throw refused(400, "PGRST102", `Content-Type not acceptable: ${contentType}`);
  if (bytes.length === 0 && isCall) return { body: "{}", keys: [] };
  return readJson(bytes, query.get("columns")?.split(","));
}

// Whether a parameter of the query is of a function's rows, and no argument.
export function isOfRows(isGet, name, value) {
  if (name === "apikey" || name === "columns") return false;
  return OF_ROWS.includes(name) || !isGet || FILTER.test(value);
}

function readJson(bytes, columns) {
  let body, value;
  try {
    body = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    value = parseExactly(body, refuseHalves);
  } catch {
    throw refused(400, "PGRST102", "Empty or invalid json");
  }
  if (columns) return { body, value, keys: columns };
  if (typeof value !== "object" || value === null) return { body: EMPTY, value: [], keys: [] };
  const rows = Array.isArray(value) ? value : [value];
  const keys = Object.keys(rows[0] ?? {});
  const isUniform = (row) =>
    row !== null &&
    typeof row === "object" &&
    !Array.isArray(row) &&
    Object.keys(row).length === keys.length &&
    keys.every((key) => key in row);
  if (!rows.every(isUniform)) throw refused(400, "PGRST102", "All object keys must match");
  return { body, value, keys };
}

// half of a surrogate pair is a string in JavaScript alone
function refuseHalves(key, value) {
  if (!key.isWellFormed() || (typeof value === "string" && !value.isWellFormed())) {
    throw new SyntaxError("half of a surrogate pair");
  }
}

// JSON with its numbers as they are written: 60.0 and 12345678901234567890 stay what they are.
export function parseExactly(text, check = () => {}) {
  return JSON.parse(text, (key, value, { source }) => {
    check(key, value);
    if (typeof value !== "number" || String(value) === source) return value;
    return JSON.rawJSON(source);
  });
}

const refused = (status, code, message, more) => new Refusal(status, { code, message, ...more });
