// Parses the query string: select, filters, order and range.

import { Refusal, leftOut } from "./errors.mjs";
import * as grammar from "./grammar.mjs";
import { Unreadable, parse } from "./parsers.mjs";
import { ALL, beyond, isNone, isZero, meeting, none, upTo, zero } from "./ranges.mjs";

const SPREAD = /(^|[,(])\s*\.\.\./;
const AGGREGATE = /\.(sum|avg|count|max|min)\(\)|(^|[,(:])\s*count\(\)/;
const NAMES = ["select", "columns", "on_conflict", "apikey"];
const ENDINGS = ["order", "limit", "offset", "and", "or"];

// `isCall` is for a call by GET, where parameters that are not filters are arguments.
export function readQuery(search, isCall) {
  try {
    return read(parametersOf(search), isCall);
  } catch (error) {
    if (!(error instanceof Unreadable)) throw error;
    const { message, details } = error;
    throw new Refusal(400, { code: "PGRST100", message, details });
  }
}

// Decode each `%41` to a byte and keep everything else.
export function decoded(text) {
  const bytes = Buffer.from(text).toString("latin1");
  const plain = bytes.replace(/%([0-9a-f]{2})/gi, (_, hex) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );
  return Buffer.from(plain, "latin1").toString();
}

// Split into pairs of a name and a value, null without `=`.
function parametersOf(search) {
  const plain = (text) => decoded(text.replaceAll("+", " "));
  return search
    .replace(/^\?/, "")
    .split(/[&;]/)
    .filter(Boolean)
    .map((pair) => {
      const [name, ...rest] = pair.split("=");
      return [plain(name), rest.length > 0 ? plain(rest.join("=")) : null];
    });
}

const lastWord = (name) => name.split(".").at(-1);

function read(all, isCall) {
  const given = all.filter(([, value]) => value !== null);
  const ending = (...words) => given.filter(([name]) => words.includes(lastWord(name)));
  const first = (name) => all.find(([one]) => one === name)?.[1] ?? null;
  const order = ending("order").map(([name, value]) => ({
    path: parse(grammar.treePath, `failed to parse tree path (${name})`, name).path,
    terms: parse(grammar.order, `failed to parse order (${value})`, value),
  }));
  const logic = ending("and", "or").map(logicOf);
  const columns = first("columns");
  const columnNames = columns === null ? null : namesOf("columns", columns);
  const selected = first("select") ?? "*";
  if (SPREAD.test(selected)) throw leftOut("spreading (`...`)");
  if (AGGREGATE.test(selected)) {
    // `db-aggregates-enabled` is off on hosted projects too.
    const message = "Use of aggregate functions is not allowed";
    throw new Refusal(400, { code: "PGRST123", message });
  }
  const select = parse(grammar.select, `failed to parse select parameter (${selected})`, selected);
  const isFilter = ([name]) => !ENDINGS.includes(lastWord(name)) && !NAMES.includes(name);
  const { filters = [], parameters = [] } = Object.groupBy(
    given.filter(isFilter).map((pair) => filterOf(pair, isCall)),
    ({ condition }) => (condition ? "filters" : "parameters"),
  );
  const conflict = first("on_conflict");
  return {
    order,
    logic,
    select,
    filters,
    filterNames: new Set(given.filter(isFilter).map(([name]) => name)),
    parameters: parameters.map(({ name, value }) => [name, value]),
    columns: columnNames && [...new Set(columnNames)].sort(),
    onConflict: conflict === null ? null : namesOf("on_conflict", conflict),
    ranges: rangesOf(ending("limit"), ending("offset")),
    canonical: canonicalOf(all.filter(([name]) => name !== "apikey")),
  };
}

const namesOf = (parameter, text) =>
  parse(grammar.columns, `failed to parse ${parameter} parameter (${text})`, text);

function logicOf([name, value]) {
  const { path, operator } = parse(grammar.logicPath, `failed to parse logic path (${name})`, name);
  const what = `failed to parse logic tree (${value})`;
  return { path, condition: parse(grammar.logicTree, what, `${operator}${value}`) };
}

function filterOf([name, value], isCall) {
  const { path, field } = parse(grammar.treePath, `failed to parse tree path (${name})`, name);
  const what = `failed to parse filter (${value})`;
  const condition = parse(isCall ? grammar.filterOrArgument : grammar.filter, what, value);
  return condition ? { path, condition: { field, ...condition } } : { name: field.name, value };
}

// Ranges by name, and for the root without a name. A limit and an offset with the same name are one
// range.
function rangesOf(limits, offsets) {
  const whole = (text) => (/^\s*-?\d+\s*$/.test(text) ? Number(text) : null);
  const found = new Map();
  for (const [name, text] of limits) {
    const limit = whole(text);
    found.set(name, limit === null ? ALL : meeting(ALL, upTo(limit - 1)));
  }
  for (const [name, text] of offsets) {
    const key = [...name.split(".").slice(0, -1), "limit"].join(".");
    const offset = whole(text) ?? 0;
    const limit = found.get(key);
    const rows = limit && (limit.upper === Infinity ? 0 : limit.upper - limit.lower + 1);
    found.set(key, limit ? { lower: offset, upper: offset + rows - 1 } : beyond(offset));
  }
  return [...found].map(([name, range]) => {
    const { path } = parse(grammar.treePath, `failed to parse tree path (${name})`, name);
    return { path, range };
  });
}

// Return the range of rows from the Range header, `limit` and `offset`.
export function topRange({ method, headers }, ranges) {
  const [, from, to] = /^(\d+)-(\d*)$/.exec(headers.get("range") ?? "") ?? [];
  const asked = method === "GET" && from !== undefined;
  const header = asked ? meeting(beyond(Number(from)), to === "" ? ALL : upTo(Number(to))) : ALL;
  const limit = ranges.find(({ path }) => path.length === 0)?.range ?? ALL;
  const both = isNone(header) || isNone(limit) ? none : meeting(header, limit);
  const range = isZero(limit) ? zero : both;
  if (isNone(range) && !isZero(limit)) {
    const details = isNone(header)
      ? "The lower boundary must be lower than or equal to the upper boundary in the Range header."
      : "Limit should be greater than or equal to zero.";
    throw new Refusal(416, {
      code: "PGRST103",
      message: "Requested range not satisfiable",
      details,
    });
  }
  return range;
}

// Canonical form of the parameters, sorted by name as PostgREST writes them, without duplicates.
function canonicalOf(pairs) {
  const byName = new Map();
  for (const [name, text] of [...pairs].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))) {
    byName.set(name, [...(byName.get(name) ?? []), text ?? ""]);
  }
  const escaped = (text) =>
    // PostgREST encodes each byte of UTF-8 as a separate character.
    encodeURIComponent(Buffer.from(text).toString("latin1")).replace(
      /[!'()*]/g,
      (letter) => `%${letter.charCodeAt(0).toString(16).toUpperCase()}`,
    );
  return [...byName]
    .map(([name, texts]) => `${escaped(name)}=${texts.map(escaped).join(",")}`)
    .join("&");
}
