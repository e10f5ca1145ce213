// Filters as PostgREST reads them and writes them in SQL, where a value is a literal whose type
// Postgres finds. What is around a condition (the statement, its tables and embeds) is lite's.
// https://github.com/PostgREST/postgrest/blob/v14/src/PostgREST/ApiRequest/QueryParams.hs

import { Refusal } from "./errors.mjs";

const SYMBOLS = Object.fromEntries(
  (
    "eq = neq <> gt > gte >= lt < lte <= like like ilike ilike match ~ imatch ~* " +
    "cs @> cd <@ ov && sl << sr >> nxr &< nxl &> adj -|-"
  )
    .match(/\S+ \S+/g)
    .map((pair) => pair.split(" ")),
);
const SEARCHES = { fts: "to", plfts: "plainto", phfts: "phraseto", wfts: "websearch_to" };
const TRUTHS = ["null", "not_null", "true", "false", "unknown"];

const NOT = /not\./y;
const LIST = /in\./y;
const IS = /is\./y;
const DISTINCT = /isdistinct\./y;
const COMPARISON =
  /((?:neq|cs|cd|ov|sl|sr|nxr|nxl|adj)(?=\.)|eq|gte?|lte?|i?like|i?match)(?:\((any|all)\))?\./y;
const SEARCH = /(fts|plfts|phfts|wfts)(?:\(([\p{L}\d_ $]+)\))?\./uy;
const STARTS = [NOT, LIST, IS, DISTINCT, COMPARISON, SEARCH];

const QUOTED = /"((?:[^"\\]|\\.)*)"/suy;
const NAME = /[\p{L}\d_ $]+(?:-(?!>)[\p{L}\d_ $]+)*/uy;
const JSON_KEY = /[^(\-:.,>)]+(?:-(?!>)[^(\-:.,>)]+)*/uy;
const JSON_INDEX = /-?\d+(?=->|::|\.|,|$)/y;
const OPENING = /[ \t]*\([ \t]*/y;
const CLOSING = /[ \t]*\)[ \t]*/y;
const COMMA = /[ \t]*,[ \t]*/y;

const unescaped = (text) => text.replace(/\\(.)/gs, "$1");
const literal = (text) => `'${text.replaceAll("'", "''")}'`;

// Whether a parameter of a function's call by GET is a filter of its rows, and no argument.
export const isFilter = (value) => STARTS.some((start) => new Reader(value).read(start));

// The conditions of a query's parameters, each with the path to the embedded table it is of.
export function filtersOf(params) {
  return params.map(([name, value]) => {
    const words = name.split(".");
    return ["and", "or"].includes(words.at(-1)) ? treeOf(name, value) : filterOf(name, value);
  });
}

function filterOf(name, value) {
  const key = new Reader(name, "tree path");
  const path = [key.name()];
  while (key.read(/\./y)) path.push(key.name());
  const field = { name: path.pop(), steps: key.jsonPath() };
  const reader = new Reader(value, "filter");
  return { path, condition: { ...field, ...reader.operation(() => reader.rest()) } };
}

function treeOf(name, value) {
  const words = new Reader(name, "logic path").names();
  const not = words.includes("not") ? "not." : "";
  const reader = new Reader(`${not}${words.at(-1)}${value}`, "logic tree", value);
  return { path: words.slice(0, -1).filter((one) => one !== "not"), condition: reader.tree() };
}

// One parameter's text and how far it is read; regular expressions are sticky.
class Reader {
  #at = 0;

  constructor(text, what, shown = text) {
    Object.assign(this, { text, what, shown });
    // no text of Postgres holds it, and a statement with it would not arrive
    if (text.includes("\0")) {
      const message = 'invalid byte sequence for encoding "UTF8": 0x00';
      throw new Refusal(400, { code: "22021", message });
    }
  }

  read(pattern) {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.text);
    if (found) this.#at = pattern.lastIndex;
    return found;
  }

  need(pattern, expected) {
    return this.read(pattern) ?? this.fail(expected);
  }

  fail(expected, ahead = 0) {
    const at = this.#at + ahead;
    const found = at < this.text.length ? JSON.stringify(this.text[at]) : "end of input";
    throw new Refusal(400, {
      code: "PGRST100",
      message: `"failed to parse ${this.what} (${this.shown})" (line 1, column ${at + 1})`,
      details: `unexpected ${found} expecting ${expected}`,
    });
  }

  rest() {
    const [all] = this.read(/.*/suy);
    return all;
  }

  name(plain = NAME, expected = "field name (* or [a..z0..9_$])") {
    const quoted = this.read(QUOTED);
    if (quoted) return unescaped(quoted[1]);
    const parts = this.need(plain, expected)[0].split("-");
    return parts.map((part) => part.trim()).join("-");
  }

  names() {
    const names = [this.name()];
    while (this.read(/\./y)) names.push(this.name());
    return names;
  }

  jsonPath() {
    const steps = [];
    for (let arrow; (arrow = this.read(/->>?/y)); ) {
      const index = this.read(JSON_INDEX);
      const key = index
        ? `${literal(index[0])}::int`
        : literal(this.name(JSON_KEY, "any non reserved character different from: .,>()"));
      steps.push(arrow[0] + key);
    }
    return steps.join("");
  }

  // An operator and its value, as what is before and after a column.
  operation(value) {
    const not = this.read(NOT) ? "not " : "";
    if (this.read(LIST)) return { not, after: ` = any (${literal(arrayOf(this.list()))})` };
    if (this.read(IS)) return { not, ...this.truth() };
    if (this.read(DISTINCT)) return { not, after: ` is distinct from ${literal(value())}` };
    const search = this.read(SEARCH);
    if (search) return { not, ...searchOf(search, value()) };
    const [, operator, every] =
      this.read(COMPARISON) ?? this.fail(`${not ? "" : '"not" or '}operator (eq, gt, ...)`);
    const given = value();
    const wanted = literal(operator.endsWith("like") ? given.replaceAll("*", "%") : given);
    const after = ` ${SYMBOLS[operator]} ${every ? `${every} (${wanted})` : wanted}`;
    return { not, after };
  }

  truth() {
    const rest = this.text.slice(this.#at).toLowerCase();
    const found = TRUTHS.find((word) => rest.startsWith(word));
    if (!found) {
      const alike = (word) => [...word].findIndex((letter, index) => letter !== rest[index]);
      this.fail(`isVal: (${TRUTHS.join(", ")})`, Math.max(...TRUTHS.map(alike)));
    }
    this.#at += found.length;
    return { after: ` is ${found.replace("_", " ")}`, isNull: found === "null" };
  }

  list() {
    this.need(OPENING, '"("');
    const values = [this.element()];
    while (this.read(/,/y)) values.push(this.element());
    this.need(CLOSING, '"," or ")"');
    return values;
  }

  // What is quoted to its end, and everything else, up to the next comma or parenthesis.
  element(inTree = false) {
    const start = this.#at;
    const quoted = this.read(QUOTED);
    if (quoted && /^[,)]?$/.test(this.text[this.#at] ?? "")) return unescaped(quoted[1]);
    this.#at = start;
    const array = inTree && this.read(/\{[^{}]*\}/y);
    return (array || this.read(/[^,)]*/y))[0];
  }

  tree() {
    const start = this.#at;
    try {
      return this.treeFilter();
    } catch (error) {
      this.#at = start;
      if (!this.text.slice(start).match(/^(?:not\.)?(?:and|or)[ \t]*\(/)) throw error;
    }
    const not = Boolean(this.read(NOT));
    const [operator] = this.need(/and|or/y, "logic operator (and, or)");
    this.need(OPENING, '"("');
    const conditions = [this.tree()];
    while (this.read(COMMA)) conditions.push(this.tree());
    this.need(CLOSING, '"," or ")"');
    return { operator, not, conditions };
  }

  treeFilter() {
    this.read(/[ \t]*/y);
    const field = { name: this.name(), steps: this.jsonPath() };
    this.read(/[ \t]*/y);
    this.need(/\./y, "delimiter (.)");
    return { ...field, ...this.operation(() => this.element(true)) };
  }
}

function arrayOf(values) {
  if (values.length === 1 && values[0] === "") return "{}";
  return `{${values.map((value) => `"${value.replace(/[\\"]/g, "\\$&")}"`).join(",")}}`;
}

function searchOf([, operator, language], text) {
  const before = language ? `${literal(language.trim())}, ` : "";
  return { search: before, after: ` @@ ${SEARCHES[operator]}_tsquery(${before}${literal(text)})` };
}

// Puts the conditions where lite looks for them: in the statement, or in an embedded table.
export function placeFilters(filters, { kind }, ast, columnsOf) {
  for (const { path, condition } of filters) {
    if (kind === "insert" && path.length === 0) continue; // of no row that is there
    const { place, from } = path.reduce(embedded, { place: ast, from: ast.from });
    const placed = forLite(condition, embedsOf(place), columnsOf(from) ?? {});
    // lite looks for embeds that are null beside the other conditions only
    place.where = isOfEmbed(placed)
      ? { ...place.where, ...placed }
      : { ...place.where, $and: [...(place.where?.$and ?? []), placed] };
  }
}

const embedsOf = ({ select = [], join = {} }) =>
  select.flatMap((entry) =>
    Object.entries(typeof entry === "string" ? {} : entry)
      .filter(([, place]) => place.select || place.spread || place.join)
      .map(([alias, place]) => ({ alias, place, from: join[alias]?.from ?? alias })),
  );

function embedded({ place }, name) {
  const found = embedsOf(place).find(({ alias, from }) => [alias, from].includes(name));
  if (found) return found;
  throw new Refusal(400, {
    code: "PGRST108",
    message: `'${name}' is not an embedded resource in this request`,
    hint: `Verify that '${name}' is included in the 'select' query parameter.`,
  });
}

const isOfEmbed = (placed) =>
  Object.values(placed).some((value) => value?.$is === null || value?.$isNot === null);

function forLite(condition, embeds, columns) {
  if (condition.operator) {
    const all = condition.conditions.map((one) => forLite(one, embeds, columns));
    const tree = { [`$${condition.operator}`]: all };
    if (all.some(isOfEmbed) && !all.every(isOfEmbed)) {
      const message = "The local Data API takes no null embed and column in one or() or and()";
      throw new Refusal(501, { code: "not_implemented", message });
    }
    return condition.not ? { $not: tree } : tree;
  }
  const { name, steps, not, search, after, isNull } = condition;
  if (isNull && !steps && embeds.some(({ alias }) => alias === name)) {
    return { [name]: not ? { $isNot: null } : { $is: null } };
  }
  const isJson = /^jsonb?$/.test(columns[name]);
  const [opening, closing] = steps && !isJson ? ["to_jsonb(", `)${steps}`] : ["", steps];
  const isSearched = search !== undefined && columns[name] !== "tsvector";
  const [before, end] = isSearched ? [`to_tsvector(${search}`, ")"] : ["", ""];
  const around = [`${not}${before}${opening}`, `${closing}${end}${after}`];
  const node = { kind: "RawNode", sqlFragments: [CONDITION, ...around], parameters: [] };
  return { [name]: { $eq: { toOperationNode: () => node } } };
}

const CONDITION = "a condition: ";

// lite writes `column = value`: where the value is a condition of ours, only the column stays.
export const conditions = {
  transformQuery: ({ node }) => withConditions(node),
  transformResult: async ({ result }) => result,
};

function withConditions(node) {
  if (Array.isArray(node)) return node.map(withConditions);
  if (!node?.kind || node.kind === "ValueNode") return node;
  const [mark, ...around] = node.parameters?.at(-1)?.sqlFragments ?? [];
  const whole =
    mark === CONDITION
      ? { ...node, sqlFragments: around, parameters: node.parameters.slice(0, 1) }
      : node;
  const entries = Object.entries(whole);
  return Object.fromEntries(entries.map(([key, value]) => [key, withConditions(value)]));
}
