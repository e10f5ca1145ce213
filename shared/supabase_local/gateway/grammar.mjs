// Grammar of the query parameters for select, filters and order.
// https://docs.postgrest.org/en/v14/references/api/tables_views.html
// https://github.com/PostgREST/postgrest/blob/v14/src/PostgREST/ApiRequest/QueryParams.hs

import {
  after,
  attempt,
  before,
  char,
  either,
  end,
  lookAhead,
  many,
  many1,
  map,
  named,
  noneOf,
  notFollowedBy,
  oneOf,
  option,
  pure,
  satisfying,
  separated,
  separated1,
  sequence,
  string,
} from "./parsers.mjs";

const SIMPLE = {
  neq: "<>",
  cs: "@>",
  cd: "<@",
  ov: "&&",
  sl: "<<",
  sr: ">>",
  nxr: "&<",
  nxl: "&>",
  adj: "-|-",
};
const QUANTIFIED = {
  eq: "=",
  gte: ">=",
  gt: ">",
  lte: "<=",
  lt: "<",
  like: "like",
  ilike: "ilike",
  match: "~",
  imatch: "~*",
};
const SEARCHES = {
  fts: "to_tsquery",
  plfts: "plainto_tsquery",
  phfts: "phraseto_tsquery",
  wfts: "websearch_to_tsquery",
};
const TRUTHS = {
  null: "null",
  not_null: "not null",
  true: "true",
  false: "false",
  unknown: "unknown",
};

const joined = (letters) => letters.join("");
const words = (table) =>
  Object.keys(table).map((word) => attempt(map(string(word), () => table[word])));
const named_ = (table) => named("unknown single value operator", either(...words(table)));

const letter = named(
  "letter",
  satisfying((one) => /\p{L}/u.test(one)),
);
const digit = named(
  "digit",
  satisfying((one) => /[0-9]/.test(one)),
);
const space = many(oneOf(" \t"));
const spaced = (parser) => before(after(space, parser), space);
const comma = spaced(char(","));
const delimiter = named("delimiter (.)", char("."));
const isEnd = (...texts) =>
  either(...texts.map((text) => attempt(lookAhead(string(text)))), attempt(end));

const identifier = map(many1(either(letter, digit, oneOf("_ $"))), (all) => joined(all).trim());
const escaped = either(
  noneOf('\\"'),
  after(
    char("\\"),
    satisfying(() => true),
  ),
);
const quoted = map(before(after(char('"'), many(escaped)), char('"')), joined);
const dash = attempt(before(char("-"), notFollowedBy(char(">"))));
const dashed = (parser) => map(separated1(parser, dash), (parts) => parts.join("-"));
const fieldName = named("field name (* or [a..z0..9_$])", either(quoted, dashed(identifier)));

const jsonKey = named(
  "any non reserved character different from: .,>()",
  either(quoted, dashed(map(many1(noneOf("(-:.,>)")), (all) => joined(all).trim()))),
);
const jsonIndex = before(
  map(sequence(option(char("-"), "+"), many1(digit)), ([sign, digits]) => sign + joined(digits)),
  isEnd("->", "::", ".", ","),
);
const arrow = either(attempt(string("->>")), attempt(string("->")));
const operand = either(
  attempt(map(jsonIndex, (index) => ({ index }))),
  attempt(map(jsonKey, (key) => ({ key }))),
);
const jsonPath = many(map(sequence(arrow, operand), ([sign, of]) => ({ arrow: sign, ...of })));
const field = spaced(
  map(sequence(fieldName, option(jsonPath, [])), ([name, path]) => ({ name, path })),
);

// Grammar of `select`.
const alias = option(attempt(before(fieldName, before(char(":"), notFollowedBy(char(":"))))));
const embedParameter = after(
  char("!"),
  either(
    attempt(map(string("left"), () => ({ join: "left" }))),
    attempt(map(string("inner"), () => ({ join: "inner" }))),
    attempt(map(fieldName, (hint) => ({ hint }))),
  ),
);
const embedParameters = map(
  sequence(option(embedParameter), option(embedParameter)),
  ([one, other]) => ({
    hint: one?.hint ?? other?.hint ?? null,
    join: one?.join ?? other?.join ?? null,
  }),
);
const opens = attempt(lookAhead(string("(")));
const embed = spaced(
  map(sequence(alias, fieldName, before(embedParameters, opens)), ([as, name, more]) => ({
    name,
    alias: as,
    ...more,
  })),
);
const cast = option(after(string("::"), identifier));
const fieldEnd = isEnd(")", ",");
const all = { field: { name: "*", path: [] }, cast: null, alias: null };
const selected = spaced(
  either(
    attempt(map(before(string("*"), fieldEnd), () => all)),
    map(before(sequence(alias, field, cast), fieldEnd), ([as, of, type]) => ({
      field: of,
      cast: type,
      alias: as,
    })),
  ),
);
const inParentheses = (parser) => before(after(char("("), parser), char(")"));
const tree = (node) =>
  map(
    sequence(
      attempt(node),
      inParentheses((...place) => select(...place)),
    ),
    ([of, items]) => ({ ...of, items }),
  );
export const select = separated(either(tree(embed), selected), comma);

// Filters.
const element = (inTree) => {
  const whole = attempt(before(quoted, notFollowedBy(noneOf(",)"))));
  const array = map(sequence(string("{"), many(noneOf("{}")), string("}")), ([a, b, c]) =>
    [a, ...b, c].join(""),
  );
  const rest = map(many(noneOf(",)")), joined);
  return inTree ? either(whole, attempt(array), rest) : either(whole, rest);
};
const list = before(
  after(spaced(char("(")), separated1(element(false), char(","))),
  spaced(char(")")),
);
// in lower or upper case
const anyCase = (word) =>
  sequence(...[...word].map((one) => either(char(one), char(one.toUpperCase()))));
const truth = named(
  "isVal: (null, not_null, true, false, unknown)",
  either(...Object.entries(TRUTHS).map(([word, is]) => attempt(map(anyCase(word), () => is)))),
);
const quantifier = option(attempt(inParentheses(either(attempt(string("any")), string("all")))));
const language = option(attempt(inParentheses(identifier)));

function operation(value) {
  const word = (text) => attempt(before(string(text), delimiter));
  const searched = sequence(either(...words(SEARCHES)), before(language, delimiter), value);
  const simple = sequence(before(named_(SIMPLE), delimiter), value);
  const compared = sequence(named_(QUANTIFIED), before(quantifier, delimiter), value);
  return named(
    "operator (eq, gt, ...)",
    either(
      map(after(word("in"), list), (values) => ({ values })),
      map(after(word("is"), truth), (is) => ({ is })),
      map(after(word("isdistinct"), value), (distinct) => ({ distinct })),
      attempt(map(searched, ([search, of, text]) => ({ search, language: of, value: text }))),
      attempt(map(simple, ([operator, text]) => ({ operator, value: text }))),
      attempt(map(compared, ([operator, every, text]) => ({ operator, every, value: text }))),
    ),
  );
}

const negation = either(attempt(map(before(string("not"), delimiter), () => true)), pure(false));
const condition = (value) =>
  map(sequence(negation, operation(value)), ([not, of]) => ({ not, ...of }));
const everything = map(many(satisfying(() => true)), joined);
export const filter = condition(everything);
// For a function called by GET. Null means an argument.
export const filterOrArgument = either(filter, pure(null));

const treeFilter = map(
  sequence(before(field, delimiter), condition(element(true))),
  ([of, is]) => ({ field: of, ...is }),
);
const logicOperator = named(
  "logic operator (and, or)",
  either(attempt(string("and")), string("or")),
);
const branch = sequence(
  named("negation operator (not)", negation),
  logicOperator,
  before(
    after(
      spaced(char("(")),
      separated1((...place) => logicTree(...place), comma),
    ),
    spaced(char(")")),
  ),
);
export const logicTree = either(
  attempt(treeFilter),
  map(branch, ([not, operator, conditions]) => ({ not, operator, conditions })),
);

// The path in a parameter's name, and orders.
export const treePath = map(
  sequence(separated1(fieldName, delimiter), option(jsonPath, [])),
  ([names, path]) => ({ path: names.slice(0, -1), field: { name: names.at(-1), path } }),
);
export const logicPath = map(separated1(fieldName, delimiter), (names) => ({
  path: names.slice(0, -1).filter((one) => one !== "not"),
  operator: `${names.includes("not") ? "not." : ""}${names.at(-1)}`,
}));
export const columns = separated1(fieldName, comma);

const orderEnd = either(attempt(map(lookAhead(char(",")), () => null)), attempt(end));
const direction = option(
  either(attempt(after(delimiter, string("asc"))), attempt(after(delimiter, string("desc")))),
);
const nulls = either(
  attempt(map(after(delimiter, string("nullsfirst")), () => "nulls first")),
  attempt(map(after(delimiter, string("nullslast")), () => "nulls last")),
);
const placed = either(before(option(nulls), orderEnd), orderEnd);
const ordered = (of) =>
  map(sequence(of, direction, placed), ([term, way, last]) => ({
    ...term,
    direction: way,
    nulls: last,
  }));
const relatedTerm = map(sequence(fieldName, inParentheses(field)), ([relation, of]) => ({
  relation,
  field: of,
}));
const ownTerm = map(field, (of) => ({ field: of }));
export const order = separated1(
  spaced(either(attempt(ordered(relatedTerm)), ordered(ownTerm))),
  char(","),
);
