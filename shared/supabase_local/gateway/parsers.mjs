// Parser combinators with the errors of Parsec, which PostgREST uses to parse queries. An error
// lists what was expected at the furthest position on any path.
// https://hackage.haskell.org/package/parsec/docs/Text-Parsec-Error.html
//
// A parser takes an input and a position. It returns whether it succeeded (`ok`), its value, the
// next position (`at`), whether it consumed input (`consumed`), and the alternatives at that
// position (`error`). Alternatives are tried only if no input was consumed.

const UNEXPECTED = 0; // unexpected character
const MESSAGE = 1; // message of `unexpected`
const EXPECTED = 2;

const nothing = (at) => ({ at, messages: [] });
const message = (at, ...messages) => ({ at, messages });
const fail = (error, consumed = false) => ({ ok: false, consumed, error });
const done = (value, at, consumed, error = nothing(at)) => ({
  ok: true,
  value,
  at,
  consumed,
  error,
});

// Return the error that is further in the input, or merge the expectations of both.
function merged(one, other) {
  if (other.messages.length === 0 && one.messages.length > 0) return one;
  if (one.messages.length === 0 && other.messages.length > 0) return other;
  if (one.at !== other.at) return one.at > other.at ? one : other;
  return message(one.at, ...one.messages, ...other.messages);
}

// Quote a text as Haskell does, or a character with other quotes.
function shown(text, quote = '"') {
  const one = (letter) => {
    if (letter === quote || letter === "\\") return `\\${letter}`;
    const named = { "\n": "\\n", "\t": "\\t", "\r": "\\r" }[letter];
    return named ?? (/[ -~]/.test(letter) ? letter : `\\${letter.codePointAt(0)}`);
  };
  return `${quote}${[...text].map(one).join("")}${quote}`;
}

export const pure = (value) => (_, at) => done(value, at, false);

export const satisfying = (test) => (input, at) => {
  if (at >= input.length) return fail(message(at, [UNEXPECTED, ""]));
  if (!test(input[at])) return fail(message(at, [UNEXPECTED, shown(input[at])]));
  return done(input[at], at + 1, true);
};

// Name the expectation of a parser that has consumed no input.
export const named = (name, parser) => (input, at) => {
  const found = parser(input, at);
  if (found.consumed || (found.ok && found.error.messages.length === 0)) return found;
  const others = found.error.messages.filter(([kind]) => kind !== EXPECTED);
  return { ...found, error: message(found.error.at, [EXPECTED, name], ...others) };
};

export const char = (letter) =>
  named(
    shown(letter),
    satisfying((one) => one === letter),
  );
export const oneOf = (letters) => satisfying((one) => letters.includes(one));
export const noneOf = (letters) => satisfying((one) => !letters.includes(one));

export const string = (text) => (input, at) => {
  for (const [place, letter] of [...text].entries()) {
    const found = input[at + place];
    if (found === letter) continue;
    const what = found === undefined ? "" : shown(found);
    return fail(message(at, [EXPECTED, shown(text)], [UNEXPECTED, what]), place > 0);
  }
  return done(text, at + [...text].length, true);
};

const then = (parser, next) => (input, at) => {
  const first = parser(input, at);
  if (!first.ok) return first;
  const second = next(first.value)(input, first.at);
  if (second.consumed) return second;
  const error = merged(first.error, second.error);
  return { ...second, consumed: first.consumed, error };
};

export const map = (parser, change) => then(parser, (value) => pure(change(value)));

// Run parsers one after the other. The value is a list.
export const sequence = (...parsers) =>
  parsers.reduce(
    (before, parser) => then(before, (values) => map(parser, (value) => [...values, value])),
    pure([]),
  );
export const before = (parser, end) => map(sequence(parser, end), ([value]) => value);
export const after = (begin, parser) => then(begin, () => parser);

export const either = (...parsers) =>
  parsers.reduce((one, other) => (input, at) => {
    const first = one(input, at);
    if (first.ok || first.consumed) return first;
    const second = other(input, at);
    if (second.consumed) return second;
    return { ...second, error: merged(first.error, second.error) };
  });

// Run a parser that fails without having consumed input.
export const attempt = (parser) => (input, at) => {
  const found = parser(input, at);
  return found.ok ? found : { ...found, consumed: false };
};

export const lookAhead = (parser) => (input, at) => {
  const found = parser(input, at);
  return found.ok ? done(found.value, at, false) : found;
};

export const option = (parser, other = null) => either(parser, pure(other));

// Repeat a parser while it succeeds. The alternatives after its last success are kept.
export const many = (parser) => (input, at) => repeated(parser, input, at, true);
const manyAfter = (parser) => (input, at) => repeated(parser, input, at, false);

function repeated(parser, input, start, withLast) {
  const values = [];
  let last = done(null, start, false);
  for (;;) {
    const found = parser(input, last.at);
    if (found.ok) {
      values.push(found.value);
      last = found;
      continue;
    }
    if (found.consumed) return found;
    const error = withLast ? merged(last.error, found.error) : found.error;
    return done(values, last.at, values.length > 0, error);
  }
}

export const many1 = (parser) =>
  then(parser, (first) => map(manyAfter(parser), (more) => [first, ...more]));
export const separated1 = (parser, separator) =>
  then(parser, (first) => map(manyAfter(after(separator, parser)), (more) => [first, ...more]));
export const separated = (parser, separator) => option(separated1(parser, separator), []);

export const notFollowedBy = (parser) => (input, at) => {
  const found = parser(input, at);
  if (!found.ok) return done(null, at, false, found.consumed ? nothing(at) : found.error);
  return fail(message(found.at, [MESSAGE, shown(found.value, "'")]));
};

export const end = named("end of input", (input, at) =>
  at >= input.length ? done(null, at, false) : fail(message(at, [MESSAGE, shown(input[at], "'")])),
);

export class Unreadable extends Error {
  constructor(what, place, details) {
    super(`"${what}" ${place}`);
    this.details = details;
  }
}

// Parse a text. The rest after the value is ignored.
export function parse(parser, what, text) {
  const input = [...text];
  const found = parser(input, 0);
  if (found.ok) return found.value;
  throw new Unreadable(what, placeOf(input, found.error.at), worded(found.error.messages));
}

function placeOf(input, at) {
  let [line, column] = [1, 1];
  for (const letter of input.slice(0, at)) {
    if (letter === "\n") [line, column] = [line + 1, 1];
    else column += letter === "\t" ? 8 - ((column - 1) % 8) : 1;
  }
  return `(line ${line}, column ${column})`;
}

function worded(messages) {
  if (messages.length === 0) return "unknown parse error";
  const of = (wanted) => messages.filter(([kind]) => kind === wanted).map(([, text]) => text);
  const [found, said] = [of(UNEXPECTED), of(MESSAGE)];
  const what = said.length > 0 ? listed(said) : found.length > 0 ? found[0] || "end of input" : "";
  const expected = listed(of(EXPECTED));
  const words = [what && `unexpected ${what}`, expected && `expecting ${expected}`];
  return words.filter(Boolean).join(" ");
}

function listed(texts) {
  const all = [...new Set(texts.filter(Boolean))];
  return all.length < 2 ? all.join("") : `${all.slice(0, -1).join(", ")} or ${all.at(-1)}`;
}
