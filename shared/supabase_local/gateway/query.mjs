// Parses the query string of a URL, which consists of select, filters, order and range.

import { parse } from "node:querystring";
import { Refusal, leftOut } from "./errors.mjs";
import { readFilter, readLogic, readNames, readOrder, readPlace, readSelect } from "./grammar.mjs";

const SPREAD = /(^|[,(])\s*\.\.\./;
const AGGREGATE = /\.(sum|avg|count|max|min)\(\)|(^|[,(:])\s*count\(\)/;
const NAMES = ["select", "columns", "on_conflict", "apikey"];
const ENDINGS = ["order", "limit", "offset", "and", "or"];

const lastWord = (name) => name.split(".").at(-1);

export function readQuery(search) {
  const given = Object.entries(parse(search.slice(1))).flatMap(([name, values]) =>
    [values].flat().map((value) => [name, value]),
  );
  const ending = (...words) => given.filter(([name]) => words.includes(lastWord(name)));
  const first = (name) => given.find(([one]) => one === name)?.[1] ?? null;
  const selected = first("select") ?? "*";
  if (SPREAD.test(selected)) throw leftOut("spreading (`...`)");
  if (AGGREGATE.test(selected)) {
    // Hosted projects switch aggregate functions off too (`db-aggregates-enabled`).
    const message = "Use of aggregate functions is not allowed";
    throw new Refusal(400, { code: "PGRST123", message });
  }
  const namesIn = (name) => (first(name) === null ? null : readNames(name, first(name)));
  const columns = namesIn("columns");
  const isFilter = ([name]) => !ENDINGS.includes(lastWord(name)) && !NAMES.includes(name);
  return {
    order: ending("order").map(([name, value]) => ({
      path: readPlace(name).path,
      terms: readOrder(value),
    })),
    logic: ending("and", "or").map(logicOf),
    select: readSelect(selected),
    filters: given.filter(isFilter).map(([name, value]) => {
      const { path, field } = readPlace(name);
      return { path, condition: { field, ...readFilter(value) } };
    }),
    columns: columns && [...new Set(columns)].sort(),
    onConflict: namesIn("on_conflict"),
    ranges: rangesOf([...ending("limit"), ...ending("offset")]),
  };
}

function logicOf([name, value]) {
  const { path, field } = readPlace(name);
  const not = path.includes("not") ? "not." : "";
  return {
    path: path.filter((one) => one !== "not"),
    condition: readLogic(not + field.name, value),
  };
}

// Ranges of the rows of the root table and of embedded tables. A limit and an offset for the same
// path form one range, in which a limit that is no integer counts as zero.
function rangesOf(given) {
  const ranges = new Map();
  for (const [name, text] of given) {
    const [, prefix, bound] = /^(.*?)(\w+)$/s.exec(name);
    const number = /^\s*-?\d+\s*$/.test(text) ? Number(text) : null;
    ranges.set(prefix, { ...ranges.get(prefix), [bound]: number });
  }
  return [...ranges].map(([prefix, { limit, offset }]) => {
    const invalid = limit === null && offset !== undefined ? 0 : null;
    const range = { limit: limit ?? invalid, offset: Math.max(offset ?? 0, 0) };
    return { path: readPlace(`${prefix}limit`).path, range: prefix ? range : checked(range) };
  });
}

// Reject an empty range of the root table, unless it is `limit=0` from the first row.
function checked({ limit, offset }) {
  if (limit === null || limit > 0 || (limit === 0 && offset === 0)) return { limit, offset };
  throw new Refusal(416, {
    code: "PGRST103",
    message: "Requested range not satisfiable",
    details: "Limit should be greater than or equal to zero.",
  });
}
