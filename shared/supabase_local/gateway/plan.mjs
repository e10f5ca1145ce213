// Plan of a read: a tree of tables, each with columns, conditions, order and range, joined to its
// parent.

import { keyOf } from "./catalogue.mjs";
import { Refusal } from "./errors.mjs";
import { ALL, bounded } from "./ranges.mjs";

export const SOURCE = "pgrst_source"; // alias of the rows that a call or a change returns

const refused = (code, message, more = {}) => new Refusal(400, { code, message, ...more });

// `of` is the table, or the result of a function. `kind` is the kind of request.
export function readPlan(of, { query, range, kind }, catalogue) {
  const isChange = !["read", "call"].includes(kind);
  const root = nodeOf(of, { schema: of.schema, items: query.select, depth: 0 }, catalogue);
  for (const each of query.filters.toReversed()) {
    if (!isChange || each.path.length > 0)
      at(root, each.path, (node) => node.where.unshift(resolved(each.condition, node, catalogue)));
  }
  for (const each of query.order.toReversed()) {
    at(
      root,
      each.path,
      (node) => (node.order = each.terms.map((term) => ordered(term, of, catalogue))),
    );
  }
  if (!isChange) {
    const inner = query.ranges.filter(({ path }) => path.length > 0);
    for (const each of [...inner, { path: [], range }])
      at(root, each.path, (node) => (node.range = each.range));
  }
  for (const each of query.logic.toReversed()) {
    if (!isChange || each.path.length > 0)
      at(root, each.path, (node) => node.where.unshift(resolved(each.condition, node, catalogue)));
  }
  if (kind !== "read") Object.assign(root, { alias_: of.name, from: { name: SOURCE } });
  related(root, of.schema, catalogue);
  everyNode(root, withAliases);
  everyNode(root, orderedByParents);
  everyNode(root, withoutNullEmbeds);
  everyNode(root, withShown);
  if (!isChange) everyNode(root, (node) => (node.range = bounded(node.range, catalogue.maxRows)));
  return root;
}

function nodeOf(of, { schema, items, depth }, catalogue) {
  const from = { schema, name: of.name };
  const node = {
    name: of.name,
    alias: of.alias ?? null,
    hint: of.hint ?? null,
    join: of.join ?? null,
    depth,
    select: [],
    children: [],
    where: [],
    order: [],
    range: ALL,
    from,
    alias_: null,
    joins: [],
  };
  for (const item of items) {
    const inner = { schema, items: item.items, depth: depth + 1 };
    if (item.items) node.children.push(nodeOf(item, inner, catalogue));
    else node.select.push({ ...item, field: known(item.field, from, catalogue) });
  }
  return node;
}

function everyNode(node, change) {
  for (const child of node.children) everyNode(child, change);
  change(node);
}

// Apply a change to the node at a path. The node becomes the first child of its parent, as in
// PostgREST.
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

// Add the table's data to a field. A path into a type other than JSON starts with a conversion.
function known(field, of, catalogue) {
  const column = catalogue.tables.get(keyOf(of))?.columns.get(field.name);
  const isJson = ["json", "jsonb"].includes(column?.nominal);
  return { ...field, type: column?.type, toJson: !isJson };
}

export function resolved(condition, node, catalogue) {
  if (condition.conditions) {
    const conditions = condition.conditions.map((one) => resolved(one, node, catalogue));
    return { ...condition, conditions };
  }
  return { ...condition, field: known(condition.field, node.from, catalogue) };
}

// Names of columns in an order are resolved in the root table.
const ordered = (term, of, catalogue) =>
  term.relation ? { ...term } : { ...term, field: known(term.field, of, catalogue) };

// Join every node to its parent.
function related(node, schema, catalogue) {
  for (const child of node.children) {
    const origin = node.depth === 0 ? (node.alias_ ?? node.from.name) : node.from.name;
    const found = relationshipOf(
      { schema, origin, target: child.name, hint: child.hint },
      catalogue,
    );
    const above = node.alias_ ? { name: node.alias_ } : node.from;
    const isMany = found.kind === "many-to-many";
    const start = found.kind === "computed" && node.alias_ ? { name: node.alias_ } : found.from;
    Object.assign(child, {
      from: { schema: found.to.schema, name: found.to.name },
      relationship: found,
      start,
      inner: `${found.from.name}_${child.alias ?? child.name}_${child.depth}`,
      alias_: isMany ? null : `${found.to.name}_${child.depth}`,
      isMany: !found.isToOne,
    });
    child.joins = joinsOf(found, above, child);
    related(child, schema, catalogue);
  }
}

function joinsOf({ kind, columns, junction }, above, child) {
  if (kind === "computed") return [];
  if (kind === "many-to-many") {
    const table = { schema: child.from.schema, name: junction.table.name };
    return [
      ...junction.target.map(([column, other]) => [
        [table, other],
        [child.from, column],
      ]),
      ...junction.source.map(([column, other]) => [
        [table, other],
        [above, column],
      ]),
    ];
  }
  const own = { name: child.alias_ };
  return columns.map(([column, other]) => [
    [own, other],
    [above, column],
  ]);
}

function relationshipOf({ schema, origin, target, hint }, catalogue) {
  const all = catalogue.relationships.get(`${schema}.${origin}`) ?? [];
  const here = all.filter(({ to }) => to.schema === schema);
  const found = here.filter((one) => isMeant(one, target, hint));
  if (found.length === 1) return found[0];
  if (found.length > 1) throw ambiguous(found, origin, target);
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

function isMeant(one, target, hint) {
  if (one.kind === "computed") return target === one.function.name;
  const [single] = one.columns?.length === 1 ? one.columns : [[]];
  const isTo = target === one.to.name;
  if (one.isSelf) {
    if (hint) return isTo && one.kind === "one-to-many" && single[1] === hint;
    const isUp = one.kind === "many-to-one" && single[0] === target;
    return (isTo && one.kind === "one-to-many") || isUp;
  }
  if (hint) return isTo && [one.name, ...single, one.junction?.table.name].includes(hint);
  return isTo || (!one.to.is_view && [one.name, single[0]].includes(target));
}

function ambiguous(found, origin, target) {
  const names = found.map(
    ({ to, name, junction }) => `'${to.name}!${junction?.table.name ?? name}'`,
  );
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

function described({ kind, name, from, to, columns, junction }) {
  const list = (pairs, place) => `(${pairs.map((pair) => pair[place]).join(", ")})`;
  const relationship = junction
    ? `${junction.table.name} using ${junction.names[0]}${list(junction.source, 1)} and ` +
      `${junction.names[1]}${list(junction.target, 1)}`
    : `${name} using ${from.name}${list(columns, 0)} and ${to.name}${list(columns, 1)}`;
  return { cardinality: kind, embedding: `${from.name} with ${to.name}`, relationship };
}

// A JSON path without alias is named after its last key.
function withAliases(node) {
  node.select = node.select.map((one) => {
    const { name, path } = one.field;
    const last = path.findLast(({ key }) => key !== undefined)?.key ?? name;
    return { ...one, alias: one.alias ?? (path.length > 0 ? last : null) };
  });
}

function orderedByParents(node) {
  for (const term of node.order.filter(({ relation }) => relation)) {
    const name = term.relation;
    const found = node.children.find((child) => name === (child.alias ?? child.name));
    if (!found) throw notEmbedded(name);
    if (!found.relationship.isToOne) {
      throw refused("PGRST118", `A related order on '${name}' is not possible`, {
        details:
          `'${node.from.name}' and '${name}' do not form a many-to-one or one-to-one ` +
          "relationship",
      });
    }
    term.relation = found.inner;
    term.field = { ...term.field, toJson: false };
  }
}

// `embedded=is.null` tests whether the embedded resource is empty.
function withoutNullEmbeds(node) {
  const replaced = (condition) => {
    if (condition.conditions)
      return { ...condition, conditions: condition.conditions.map(replaced) };
    const { field, is, not } = condition;
    const found = node.children.find((child) => field.name === (child.alias ?? child.name));
    const isAsked = found && is === "null" && field.path.length === 0;
    return isAsked ? { embed: found, not } : condition;
  };
  node.where = node.where.map(replaced);
}

const isBare = (node) => node.select.length === 0 && node.children.every(isBare);

// Add the embedded resources of a node, as objects or lists.
function withShown(node) {
  node.shown = node.children.map((child) => ({
    child,
    name: child.alias ?? child.name,
    isEmpty: isBare(child),
  }));
}
