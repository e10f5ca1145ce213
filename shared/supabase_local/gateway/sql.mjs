// SQL fragments whose parameters have no declared type. Postgres infers the type of each parameter
// from its context, in the same way as for PostgREST.

class Sql {
  constructor(texts, values = []) {
    Object.assign(this, { texts, values });
  }

  // The SQL text, in which `$1` is the placeholder of the first value.
  get text() {
    return this.texts.map((text, index) => (index === 0 ? text : `$${index}${text}`)).join("");
  }
}

// Create a fragment from a template whose values are fragments.
export const sql = (texts, ...pieces) =>
  pieces.reduce(
    (all, piece, index) => joined(joined(all, piece), raw(texts[index + 1])),
    raw(texts[0]),
  );

export const raw = (text) => new Sql([text]);
export const nothing = raw("");
export const value = (given) => new Sql(["", ""], [given]);
export const ident = (name) => raw(quoted(name));
export const quoted = (name) => `"${name.replaceAll('"', '""')}"`;

// Return the name of a relation or function with its schema. If the schema is missing, the name is
// an alias.
export const qualified = ({ schema, name }) =>
  schema ? raw(`${quoted(schema)}.${quoted(name)}`) : ident(name);
export const columnOf = (of, name) =>
  sql`${qualified(of)}.${name === "*" ? raw("*") : ident(name)}`;

export const list = (pieces, separator = ", ") =>
  pieces.reduce(
    (all, piece, index) => (index === 0 ? piece : sql`${all}${raw(separator)}${piece}`),
    nothing,
  );

function joined(one, other) {
  const texts = [
    ...one.texts.slice(0, -1),
    one.texts.at(-1) + other.texts[0],
    ...other.texts.slice(1),
  ];
  return new Sql(texts, [...one.values, ...other.values]);
}
