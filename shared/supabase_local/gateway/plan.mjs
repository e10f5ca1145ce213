// Plan of a read, which is a tree of tables. Each table has columns, conditions, an order and a
// range, and is joined to its parent.

import { keyOf } from "./catalogue.mjs";
import { Refusal, leftOut } from "./errors.mjs";

export const SOURCE = "pgrst_source"; // alias of the rows that a call or a change returns

const refused = (code, message, more = {}) => new Refusal(400, { code, message, ...more });

// `of` is the table that is read, or the result of a function. `kind` is read, call or
// the kind of change.
export function readPlan(of, { query, kind }, catalogue) {
  const isChange = !["read", "call"].includes(kind);
  const root = nodeOf(of, { schema: of.schema, items: query.select, depth: 0 }, catalogue);
  for (const { path, condition } of [...query.logic, ...query.filters].toReversed()) {
    if (!isChange || path.length > 0)
      at(root, path, (node) => node.where.unshift(resolved(condition, node, catalogue)));
  }
  for (const { path, terms } of query.order.toReversed()) {
    // PostgREST looks up the types of ordered columns in the root table, also for embedded tables.
    const order = terms.map((term) => ({ ...term, field: known(term.field, of, catalogue) }));
    at(root, path, (node) => (node.order = order));
  }
  if (!isChange) {
    for (const { path, range } of query.ranges) at(root, path, (node) => (node.range = range));
    everyNode(root, ({ range }) => {
      range.limit = Math.min(range.limit ?? catalogue.maxRows, catalogue.maxRows);
    });
  }
  if (kind !== "read") Object.assign(root, { alias_: of.name, from: { name: SOURCE } });
  related(root, of.schema, catalogue);
  return root;
}

function nodeOf(of, { schema, items, depth }, catalogue) {
  const from = { schema, name: of.name };
  return {
    name: of.name,
    alias: of.alias ?? null,
    hint: of.hint ?? null,
    join: of.join ?? null,
    depth,
    select: items.filter((item) => !item.items).map((item) => selected(item, from, catalogue)),
    children: items
      .filter((item) => item.items)
      .map((item) => nodeOf(item, { schema, items: item.items, depth: depth + 1 }, catalogue)),
    where: [],
    order: [],
    range: { limit: null, offset: 0 },
    from,
    alias_: null,
    joins: [],
  };
}

// A JSON path without an alias is named after its last key.
function selected({ field, cast, alias }, of, catalogue) {
  const last = field.path.findLast(({ key }) => key !== undefined)?.key ?? field.name;
  return {
    field: known(field, of, catalogue),
    cast,
    alias: alias ?? (field.path.length > 0 ? last : null),
  };
}

function everyNode(node, change) {
  for (const child of node.children) everyNode(child, change);
  change(node);
}

// Apply a change to the node of the tree at a path. The node moves to the first position among its
// parent's children, like PostgREST.
function at(node, [name, ...rest], change) {
  if (name === undefined) return change(node);
  const found = node.children.find((child) => [child.name, child.alias].includes(name));
  if (!found) throw notEmbedded(name);
  node.children = [found, ...node.children.filter((child) => child !== found)];
  return at(found, rest, change);
}

function notEmbedded(name) {
  return refused("PGRST108", `'${name}' is not an embedded resource in this request`, {
    hint: `Verify that '${name}' is included in the 'select' query parameter.`,
  });
}

// Add to a field whether its column must be converted to JSON. If the column has another type than
// JSON, a JSON path begins with this conversion.
function known(field, of, catalogue) {
  const column = catalogue.tables.get(keyOf(of))?.columns.get(field.name);
  const isJson = ["json", "jsonb"].includes(column?.nominal);
  return { ...field, toJson: !isJson };
}

export function resolved(condition, node, catalogue) {
  if (condition.conditions) {
    const conditions = condition.conditions.map((one) => resolved(one, node, catalogue));
    return { ...condition, conditions };
  }
  return { ...condition, field: known(condition.field, node.from, catalogue) };
}

// Join every node of the tree to its parent.
function related(node, schema, catalogue) {
  for (const child of node.children) {
    const origin = node.depth === 0 ? (node.alias_ ?? node.from.name) : node.from.name;
    const { name: target, hint } = child;
    if (node.where.some((one) => namesField(one, child.alias ?? target)))
      throw leftOut(`a filter by whether ${target} is empty`);
    const found = relationshipOf({ schema, origin, target, hint }, catalogue);
    const above = node.alias_ ? { name: node.alias_ } : node.from;
    const alias = `${found.to.name}_${child.depth}`;
    Object.assign(child, {
      from: { schema: found.to.schema, name: found.to.name },
      relationship: found,
      inner: `${found.from.name}_${child.alias ?? target}_${child.depth}`,
      alias_: alias,
      joins: found.columns.map(([column, other]) => [
        [{ name: alias }, other],
        [above, column],
      ]),
    });
    related(child, schema, catalogue);
  }
}

const namesField = ({ conditions, field, is }, name) =>
  conditions
    ? conditions.some((one) => namesField(one, name))
    : is === "null" && field.name === name && field.path.length === 0;

function relationshipOf({ schema, origin, target, hint }, catalogue) {
  const all = catalogue.relationships.get(`${schema}.${origin}`) ?? [];
  const here = all.filter(({ to }) => to.schema === schema);
  const direct = here.filter((one) => isMeant(one, target, hint));
  const mayJoin = !hint && direct.some(({ to, isSelf }) => to.name === target && !isSelf);
  const joined = mayJoin ? joinedBy(here, { schema, target }, catalogue) : [];
  const found = [...direct, ...joined];
  if (found.length === 1) return found[0];
  if (found.length > 1) throw ambiguous(found, origin, target);
  if (isElsewhere({ schema, origin, target, all }, catalogue))
    throw leftOut("embedding through views, join tables and functions");
  const using = hint ? `' using the hint '${hint}` : "";
  throw refused(
    "PGRST200",
    `Could not find a relationship between '${origin}' and '${target}' in the schema cache`,
    {
      details:
        `Searched for a foreign key relationship between '${origin}' and '${target}${using}' in ` +
        `the schema '${schema}', but no matches were found.`,
    },
  );
}

// Relationships through a join table. The primary key of the join table contains both foreign keys.
function joinedBy(here, { schema, target }, { tables, relationships }) {
  const isTo = ({ to }) => to.schema === schema && to.name === target;
  const pairs = here
    .filter(({ kind }) => kind === "one-to-many")
    .flatMap((one) => relationships.get(keyOf(one.to)).map((other) => [one, other]));
  return pairs
    .filter(
      ([one, other]) => other.kind === "many-to-one" && isTo(other) && other.name !== one.name,
    )
    .map(([one, other]) => ({
      kind: "many-to-many",
      name: one.to.name,
      from: one.from,
      to: other.to,
      ends: [
        [one.name, one.columns.map(([, column]) => column)],
        [other.name, other.columns.map(([column]) => column)],
      ],
    }))
    .filter(({ name, ends }) => {
      const key = tables.get(keyOf({ schema, name }))?.key ?? [];
      return ends.every(([, columns]) => columns.every((column) => key.includes(column)));
    });
}

// Return whether PostgREST may find a relationship of the two tables without a foreign key between
// the tables.
function isElsewhere({ schema, origin, target, all }, { tables, functions, relationships }) {
  const isView = (name) => tables.get(keyOf({ schema, name }))?.is_view;
  const joinTables = all.filter(({ isToOne }) => !isToOne).map(({ to }) => to);
  const joined = joinTables.flatMap((table) => relationships.get(keyOf(table)));
  return (
    isView(origin) ||
    isView(target) ||
    functions.some((one) => one.schema === schema && one.name === target) ||
    joined.some(({ isToOne, to }) => isToOne && to.name === target)
  );
}

function isMeant(one, target, hint) {
  const [single] = one.columns.length === 1 ? one.columns : [[]];
  const isTo = target === one.to.name;
  if (one.isSelf) {
    if (hint) return isTo && one.kind === "one-to-many" && single[1] === hint;
    const isUp = one.kind === "many-to-one" && single[0] === target;
    return (isTo && one.kind === "one-to-many") || isUp;
  }
  if (hint) return isTo && [one.name, ...single].includes(hint);
  return isTo || [one.name, single[0]].includes(target);
}

function ambiguous(found, origin, target) {
  const names = found.map(({ to, name }) => `'${to.name}!${name}'`);
  return new Refusal(300, {
    code: "PGRST201",
    message:
      `Could not embed because more than one relationship was found for '${origin}' and ` +
      `'${target}'`,
    details: found.map(described),
    hint:
      `Try changing '${target}' to one of the following: ${names.join(", ")}. Find the desired ` +
      "relationship in the 'details' key.",
  });
}

function described({ kind, name, from, to, columns, ends }) {
  const sides =
    ends ?? [from, to].map((of, place) => [of.name, columns.map((pair) => pair[place])]);
  const texts = sides.map(([side, names]) => `${side}(${names.join(", ")})`);
  return {
    cardinality: kind,
    embedding: `${from.name} with ${to.name}`,
    relationship: `${name} using ${texts.join(" and ")}`,
  };
}
