// The body of a request: its text, which Postgres parses, and its names.

import { Refusal, leftOut } from "./errors.mjs";
import { nameOf } from "./media.mjs";

const EMPTY = "[]"; // PostgREST's replacement for a body that is neither an object nor an array
// Types for which the whole body is the value of a function's only, unnamed parameter.
const RAW = { text: "text", xml: "xml", bytes: "bytea" };

const refused = (message) => new Refusal(400, { code: "PGRST102", message });

// `columns` are those in the query, if any.
export function payloadOf(bytes, media, { isCall, columns }) {
  const { kind } = media;
  if (isCall && RAW[kind])
    return { raw: RAW[kind], body: kind === "bytes" ? bytes : decoded(bytes), keys: [] };
  if (kind === "form") return formOf(bytes, isCall);
  if (kind === "csv") throw leftOut("bodies of text/csv");
  if (kind !== "json") throw refused(`Content-Type not acceptable: ${nameOf(media)}`);
  if (columns) return { body: decoded(bytes), keys: columns };
  if (isCall && bytes.length === 0) return { body: "{}", keys: [] };
  return jsonOf(bytes);
}

function decoded(bytes) {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}

function formOf(bytes, isCall) {
  const fields = [...new URLSearchParams(decoded(bytes))];
  const keys = [...new Set(fields.map(([name]) => name))].sort();
  return isCall ? { fields, keys } : { body: JSON.stringify(Object.fromEntries(fields)), keys };
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

// JavaScript strings may contain half of a surrogate pair, which Postgres rejects.
// Only an escape can produce one, so the text is searched. Checking the parsed values of a large
// body would take six times as long as parsing.
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
