// A request to /rest/v1 as PostgREST understands it, or its refusal.

import { Refusal } from "./errors.mjs";
import { isFilter } from "./filters.mjs";
import { preferencesOf } from "./preferences.mjs";
import { settings } from "./settings.mjs";
import { claimsOf } from "./tokens.mjs";

const KINDS = { POST: "insert", PATCH: "update", DELETE: "delete" };
const METHODS = ["GET", "HEAD", ...Object.keys(KINDS)];
const OBJECT = "application/vnd.pgrst.object";
const MEDIA = ["*/*", "application/*", "application/json", OBJECT, "application/vnd.pgrst.array"];
const OF_ROWS = ["order", "limit", "offset"];
const LOGIC = ["and", "or"];
const NO_FILTERS = ["select", "columns", "on_conflict", "apikey"];
// a body that is one argument as it comes, and the type of a function's only parameter, unnamed
const RAW = { "text/plain": "text", "text/xml": "xml", "application/octet-stream": "bytea" };
const FORM = "application/x-www-form-urlencoded";
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
  if (method === "PUT") {
    throw refused(501, "not_implemented", "The local Data API takes no PUT: upsert by POST");
  }
  if (!METHODS.includes(method))
    throw refused(405, "PGRST117", `Unsupported HTTP method: ${method}`);
  const isGet = method === "GET" || method === "HEAD";
  const parameters = parametersOf(url, isCall && isGet);
  return {
    claims,
    isCall,
    method,
    isGet,
    prefers: preferencesOf(request.headers.get("prefer")),
    name: isCall ? name : place,
    path: url.pathname.slice("/rest/v1".length),
    kind: isCall ? "call" : (KINDS[method] ?? "read"),
    headers: request.headers,
    schema: schemaOf(request),
    isHead: method === "HEAD",
    ...parameters,
    ...accepted(request.headers.get("accept") ?? "*/*", isCall),
    ...(isGet
      ? { body: "", keys: namesOf(parameters.arguments) }
      : await givenBy(request, url.searchParams, isCall)),
  };
}

// The parameters of a query by what they are; those without a value are none.
function parametersOf({ search }, isCallByGet) {
  const given = search.slice(1).split("&");
  const params = [...new URLSearchParams(given.filter((one) => one.includes("=")).join("&"))];
  const kindOf = ([name, value]) => {
    const last = name.split(".").at(-1);
    if (NO_FILTERS.includes(name) || OF_ROWS.includes(last)) return "others";
    return LOGIC.includes(last) || !isCallByGet || isFilter(value) ? "filters" : "arguments";
  };
  return { filters: [], others: [], arguments: [], ...Object.groupBy(params, kindOf) };
}

const namesOf = (pairs) => [...new Set(pairs.map(([name]) => name))];

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

// What a body gives: its text, and the names in it.
async function givenBy(request, query, isCall) {
  const bytes = new Uint8Array(await request.arrayBuffer());
  if (request.method === "DELETE") return { body: "", keys: [] };
  const [given] = (request.headers.get("content-type") ?? "application/json").split(";");
  const contentType = given.trim();
  if (isCall && RAW[contentType])
    return { raw: RAW[contentType], body: Buffer.from(bytes), keys: [] };
  if (contentType === FORM) {
    const fields = [...new URLSearchParams(new TextDecoder().decode(bytes))];
    if (isCall) return { arguments: fields, keys: namesOf(fields) };
    const value = Object.fromEntries(fields);
    return { body: JSON.stringify(value), value, keys: Object.keys(value) };
  }
  if (contentType !== "application/json")
    throw refused(400, "PGRST102", `Content-Type not acceptable: ${contentType}`);
  if (bytes.length === 0 && isCall) return { body: "{}", value: {}, keys: [] };
  return readJson(bytes, query.get("columns")?.split(","));
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
