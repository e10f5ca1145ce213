// Parses the values of the query parameters `select`, `order`, `columns` and of filters.
// https://docs.postgrest.org/en/v16/references/api/tables_views.html

import { Refusal, leftOut } from "./errors.mjs";

const OPERATORS = {
  eq: "=",
  neq: "<>",
  gt: ">",
  gte: ">=",
  lt: "<",
  lte: "<=",
  like: "like",
  ilike: "ilike",
  match: "~",
  imatch: "~*",
  cs: "@>",
  cd: "<@",
  ov: "&&",
  sl: "<<",
  sr: ">>",
  nxr: "&<",
  nxl: "&>",
  adj: "-|-",
};
const LEFT_OUT = ["fts", "plfts", "phfts", "wfts", "isdistinct"];
const EVERY_FIELD = { field: { name: "*", path: [] }, cast: null, alias: null };

// A name may contain a hyphen, but not the arrow `->` of a JSON path.
const NAME = /[ \t]*(?:"((?:[^"\\]|\\.)*)"|([\p{L}\d_ $]+(?:-(?!>)[\p{L}\d_ $]+)*))[ \t]*/suy;
const KEY = /"((?:[^"\\]|\\.)*)"|([^(\-:.,>)]+(?:-(?!>)[^(\-:.,>)]+)*)/suy;
const INDEX = /-?\d+(?=->|::|[.,]|$)/y;
const COMMA = /[ \t]*,[ \t]*/y;
const QUOTED = /"((?:[^"\\]|\\.)*)"(?=[,)]|$)/sy;

const unescaped = (text) => text.replace(/\\(.)/gs, "$1");

class Reader {
  // `shown` is the part of the text that errors contain.
  constructor(text, what, shown = text) {
    Object.assign(this, { text, what, shown, at: 0 });
  }

  // Consume and return the text that a sticky pattern matches here, or return null without a match.
  match(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found) this.at = pattern.lastIndex;
    return found;
  }

  need(pattern, expected) {
    return this.match(pattern) ?? this.refuse(expected);
  }

  refuse(expected) {
    const found = this.text[this.at];
    throw new Refusal(400, {
      code: "PGRST100",
      message: `"failed to parse ${this.what} (${this.shown})" (line 1, column ${this.at + 1})`,
      details: `unexpected ${found ? `"${found}"` : "end of input"} expecting ${expected}`,
    });
  }

  list(read) {
    const items = [];
    do items.push(read());
    while (this.match(COMMA));
    return items;
  }

  name(pattern = NAME) {
    const [, quoted, plain] = this.need(pattern, "field name (* or [a..z0..9_$])");
    return quoted === undefined ? plain.trim() : unescaped(quoted);
  }

  names() {
    const names = [this.name()];
    while (this.match(/\./y)) names.push(this.name());
    return names;
  }

  // Parse the path into a JSON value.
  path() {
    const steps = [];
    for (let found; (found = this.match(/->>?/y)); ) {
      const [arrow] = found;
      const index = this.match(INDEX)?.[0];
      steps.push(index === undefined ? { arrow, key: this.name(KEY) } : { arrow, index });
    }
    return steps;
  }

  field() {
    return { name: this.name(), path: this.path() };
  }

  select() {
    return this.match(/[ \t]*(?=\)|$)/y) ? [] : this.list(() => this.selected());
  }

  selected() {
    if (this.match(/[ \t]*\*[ \t]*(?=[,)]|$)/y)) return EVERY_FIELD;
    const first = this.name();
    const alias = this.match(/:(?!:)/y) ? first : null;
    const name = alias === null ? first : this.name();
    const hints = [];
    while (this.match(/!/y)) hints.push(this.name());
    if (hints.length > 0 || this.text[this.at] === "(") {
      this.need(/\(/y, '"("');
      const items = this.select();
      this.need(/\)[ \t]*/y, '")"');
      const isJoin = (word) => ["left", "inner"].includes(word);
      const [hint = null] = hints.filter((word) => !isJoin(word));
      return { name, alias, hint, join: hints.find(isJoin) ?? null, items };
    }
    const path = this.path();
    const cast = this.match(/::([\p{L}\d_ $]+)/uy)?.[1].trim() ?? null;
    this.need(/[ \t]*(?=[,)]|$)/y, '"," or end of input');
    return { field: { name, path }, cast, alias };
  }

  // `readValue` parses the operand that follows an operator.
  condition(readValue) {
    const not = this.match(/not\./y) !== null;
    const start = this.at;
    const [, word, quantifier] = this.match(/([a-z]+)(\(\w*\))?\./y) ?? [];
    if (word === "in" && !quantifier) return { not, values: this.values() };
    if (word === "is" && !quantifier) return { not, is: this.truth() };
    const isKnown = Object.hasOwn(OPERATORS, word);
    if (LEFT_OUT.includes(word) || (isKnown && quantifier))
      throw leftOut(`the operator ${word}${quantifier ?? ""}`);
    if (isKnown) return { not, operator: OPERATORS[word], value: readValue() };
    this.at = start;
    return this.refuse("operator (eq, gt, ...)");
  }

  values() {
    this.need(/[ \t]*\([ \t]*/y, '"("');
    const found = this.list(() => this.quoted() ?? this.match(/[^,)]*/y)[0]);
    this.need(/\)[ \t]*/y, '")"');
    return found;
  }

  truth() {
    const word = this.match(/not_null|null|true|false|unknown/iy);
    return word
      ? word[0].toLowerCase().replace("_", " ")
      : this.refuse("isVal: (null, not_null, true, false, unknown)");
  }

  quoted() {
    const found = this.match(QUOTED);
    return found && unescaped(found[1]);
  }

  logic() {
    const [group, not, operator] = this.match(/(not\.)?(and|or)[ \t]*\([ \t]*/y) ?? [];
    if (group) {
      const conditions = this.list(() => this.logic());
      this.need(/[ \t]*\)[ \t]*/y, '")"');
      return { not: not !== undefined, operator, conditions };
    }
    const field = this.field();
    this.need(/\./y, "delimiter (.)");
    const inTree = () => this.quoted() ?? this.need(/\{[^{}]*\}|[^,)]*/y)[0];
    return { field, ...this.condition(inTree) };
  }

  ordered() {
    const field = this.field();
    if (this.text[this.at] === "(") throw leftOut("an order by an embedded table");
    const direction = this.match(/\.(asc|desc)(?![a-z])/y)?.[1] ?? null;
    const [, nulls] = this.match(/\.nulls(first|last)/y) ?? [];
    this.need(/[ \t]*(?=,|$)/y, '"," or end of input');
    return { field, direction, nulls: nulls ? `nulls ${nulls}` : null };
  }
}

export const readSelect = (text) => new Reader(text, "select parameter").select();

export function readNames(parameter, text) {
  const reader = new Reader(text, `${parameter} parameter`);
  return reader.list(() => reader.name());
}

export function readOrder(text) {
  const reader = new Reader(text, "order");
  return reader.list(() => reader.ordered());
}

export function readFilter(text) {
  const reader = new Reader(text, "filter");
  return reader.condition(() => text.slice(reader.at));
}

export const readLogic = (operator, text) =>
  new Reader(operator + text, "logic tree", text).logic();

// Parse the name of a query parameter, which consists of the names of embedded tables, a field, and
// the JSON path of the field.
export function readPlace(text) {
  const reader = new Reader(text, "tree path");
  const names = reader.names();
  return { path: names.slice(0, -1), field: { name: names.at(-1), path: reader.path() } };
}
