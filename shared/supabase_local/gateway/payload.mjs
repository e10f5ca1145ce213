// The JSON body of a request, as the text, which Postgres parses, and the names of the keys.

import { Refusal, leftOut } from "./errors.mjs";

const EMPTY = "[]"; // PostgREST's replacement for a body that is neither an object nor an array
const LEFT_OUT = [
  "application/x-www-form-urlencoded",
  "application/octet-stream",
  "text/csv",
  "text/plain",
  "text/xml",
];

const refused = (message) => new Refusal(400, { code: "PGRST102", message });

// `columns` are the columns named in the query, or undefined.
export function payloadOf(bytes, contentType, { isCall, columns }) {
  const type = contentType.split(";")[0].trim().toLowerCase();
  if (LEFT_OUT.includes(type)) throw leftOut(`bodies of ${type}`);
  if (type !== "application/json") throw refused(`Content-Type not acceptable: ${contentType}`);
  if (columns) return { body: new TextDecoder().decode(bytes), keys: columns };
  if (isCall && bytes.length === 0) return { body: "{}", keys: [] };
  return jsonOf(bytes);
}

function jsonOf(bytes) {
  let body, value;
  try {
    body = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(body, HALF.test(body) ? refuseHalves : undefined);
  } catch {
    throw refused("Empty or invalid json");
  }
  if (typeof value !== "object" || value === null) return { body: EMPTY, keys: [] };
  const rows = Array.isArray(value) ? value : [value];
  return { body, keys: keysOf(rows) };
}

// A JavaScript string may contain half of a surrogate pair, which Postgres rejects.
// Only an escape sequence can produce such a half, so search the text for these escapes. Checking
// each parsed value of a large body would take six times as long as parsing the body.
const HALF = /\\u[dD][89a-fA-F]/;

function refuseHalves(key, value) {
  if (!key.isWellFormed() || (typeof value === "string" && !value.isWellFormed())) {
    throw new SyntaxError("half of a surrogate pair");
  }
  return value;
}

function keysOf(rows) {
  const keys = Object.keys(rows[0] ?? {});
  const isUniform = (row) =>
    row !== null &&
    typeof row === "object" &&
    !Array.isArray(row) &&
    Object.keys(row).length === keys.length &&
    keys.every((key) => Object.hasOwn(row, key));
  if (!rows.every(isUniform)) throw refused("All object keys must match");
  return keys.sort();
}
