// Relationships between tables and views: by foreign keys in both directions, by join tables, by
// views that contain keys, and by computed relationships (functions of a row).

const FOREIGN_KEYS = `
  select f.conname as name, f.conrelid as table, f.confrelid as other, cols.names as columns,
    coalesce(f.conkey @> u.key and f.conkey <@ u.key, false) as is_one
  from pg_catalog.pg_constraint as f
  cross join lateral (
    select pg_catalog.json_agg(pg_catalog.json_build_array(a.attname, b.attname) order by k.place)
      as names
    from unnest(f.conkey, f.confkey) with ordinality as k (one, other, place)
    join pg_catalog.pg_attribute as a on a.attrelid = f.conrelid and a.attnum = k.one
    join pg_catalog.pg_attribute as b on b.attrelid = f.confrelid and b.attnum = k.other
  ) as cols
  left join lateral (
    select c.conkey as key from pg_catalog.pg_constraint as c
    where c.conrelid = f.conrelid and c.contype in ('p', 'u')
      and c.conkey @> f.conkey and c.conkey <@ f.conkey
    limit 1
  ) as u on true
  where f.contype = 'f' and f.conparentid = 0
  order by f.conrelid, f.conname`;
const KEYS = `
  select p.conrelid as table, pg_catalog.json_agg(a.attname order by a.attname) as columns
  from pg_catalog.pg_constraint as p
  join pg_catalog.pg_attribute as a on a.attrelid = p.conrelid and a.attnum = any (p.conkey)
  where p.contype = 'p' group by 1`;
const RELATIONS = `
  select c.oid as id, n.nspname as schema, c.relname as name, c.relkind in ('v', 'm') as is_view,
    pg_catalog.json_object_agg(a.attnum, a.attname) as columns
  from pg_catalog.pg_class as c
  join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
  join pg_catalog.pg_attribute as a
    on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  where c.relkind in ('r', 'v', 'm', 'f', 'p') and n.nspname !~ '^pg_|^information_schema$'
  group by n.nspname, c.oid`;
const VIEWS = `
  select r.ev_class as id, r.ev_action::text as rule
  from pg_catalog.pg_rewrite as r
  join pg_catalog.pg_class as c on c.oid = r.ev_class and c.relkind in ('v', 'm')
  join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
  where r.rulename = '_RETURN' and n.nspname !~ '^pg_|^information_schema$'`;
const COMPUTED = `
  select n.nspname as schema, p.proname as name, a.typrelid as table, r.typrelid as other,
    not p.proretset or p.prorows = 1 as is_one
  from pg_catalog.pg_proc as p
  join pg_catalog.pg_namespace as n on n.oid = p.pronamespace
  join pg_catalog.pg_type as a on a.oid = p.proargtypes[0] and a.typrelid <> 0
  join pg_catalog.pg_type as r on r.oid = p.prorettype and r.typrelid <> 0
  where p.pronargs = 1 and n.nspname !~ '^pg_'`;

const keyOf = ({ schema, name }) => `${schema}.${name}`;

// Relationships by their first table: the other table and the columns of the join.
export async function relationshipsOf(tx, schemas) {
  const asked = [FOREIGN_KEYS, KEYS, RELATIONS, VIEWS, COMPUTED].map((text) => tx.unsafe(text));
  const [foreign, keys, relations, views, computed] = await Promise.all(asked);
  const relation = new Map(relations.map((one) => [one.id, one]));
  const sources = new Map(views.map(({ id, rule }) => [id, sourcesOf(rule)]));
  const shown = new Map(views.map(({ id }) => [id, shownBy(id, sources, relation)]));
  const key = new Map(keys.map(({ table, columns }) => [table, columns]));
  const keysOfViews = new Map(
    [...shown].map(([id, columns]) => [id, keyShown(columns, key)]).filter(([, one]) => one),
  );
  const forward = foreign
    .filter((one) => relation.has(one.table) && relation.has(one.other))
    .flatMap((one) => [one, ...throughViews(one, shown)])
    .map((one) => relationship(one, relation));
  const isKey = (of, columns) => {
    const its = key.get(of.id) ?? keysOfViews.get(of.id) ?? [];
    return columns.every((column) => its.includes(column));
  };
  const all = [...forward, ...forward.map(inverse), ...manyToMany(forward, isKey)];
  const viewKeys = [...keysOfViews].map(([id, columns]) => [keyOf(relation.get(id)), columns]);
  return {
    relationships: indexed(
      all,
      computed.map((one) => ofFunction(one, relation)),
      schemas,
    ),
    viewKeys: new Map(viewKeys),
  };
}

function relationship({ name, table, other, columns, is_one: isOne }, relation) {
  const [from, to] = [relation.get(table), relation.get(other)];
  const kind = isOne ? "one-to-one" : "many-to-one";
  return { kind, name, from, to, columns, isToOne: true, isSelf: table === other };
}

function inverse({ kind, name, from, to, columns, isSelf }) {
  const isOne = kind === "one-to-one";
  const turned = columns.map(([one, other]) => [other, one]);
  return {
    kind: isOne ? kind : "one-to-many",
    name,
    from: to,
    to: from,
    columns: turned,
    isToOne: isOne,
    isSelf,
  };
}

// A table whose key contains two foreign keys joins the two referenced tables.
function manyToMany(forward, isKey) {
  const many = forward.filter(({ kind }) => kind === "many-to-one");
  return many.flatMap((one) =>
    many
      .filter((two) => two.from === one.from && two.name !== one.name)
      .filter((two) =>
        isKey(
          one.from,
          [...one.columns, ...two.columns].map(([column]) => column),
        ),
      )
      .map((two) => ({
        kind: "many-to-many",
        from: one.to,
        to: two.to,
        isToOne: false,
        isSelf: one.to === two.to,
        junction: {
          table: one.from,
          names: [one.name, two.name],
          source: one.columns.map(([a, b]) => [b, a]),
          target: two.columns.map(([a, b]) => [b, a]),
        },
      })),
  );
}

const ofFunction = ({ schema, name, table, other, is_one: isOne }, relation) => ({
  kind: "computed",
  function: { schema, name },
  from: relation.get(table),
  to: relation.get(other),
  isToOne: isOne,
});

// A function with the name of a table replaces the foreign keys to that table.
function indexed(found, computed, schemas) {
  const own = computed.filter(({ from, to }) => from && to);
  const names = new Set(own.map((one) => `${keyOf(one.from)} ${keyOf(one.function)}`));
  const others = found.filter(({ from, to }) => !names.has(`${keyOf(from)} ${keyOf(to)}`));
  const isExposed = ({ from, to, junction }) =>
    [from, to, junction?.table ?? from].every(({ schema }) => schemas.includes(schema));
  return Map.groupBy([...own, ...others].filter(isExposed), ({ from }) => keyOf(from));
}

// The columns of a view that come from tables: position in the view, table, position in the table.
// They are read from the tree of the view's rule, where selected columns are at depth two.
function sourcesOf(rule) {
  const entries = [];
  let [depth, text] = [0, ""];
  for (let at = 0; at < rule.length; at += 1) {
    if (rule[at] === "\\") at += 1;
    else if (rule[at] === "{") [depth, text] = [depth + 1, depth === 1 ? "" : text];
    else if (rule[at] === "}") {
      if (depth === 2 && text.startsWith("TARGETENTRY")) entries.push(text);
      depth -= 1;
    } else if (depth === 2) text += rule[at];
  }
  return entries.map((entry) =>
    ["resno", "resorigtbl", "resorigcol"].map((name) =>
      Number(new RegExp(`:${name} (\\d+)`).exec(entry)[1]),
    ),
  );
}

// Map each column of a view to a table's column, also through other views: `{view, table, column}`.
function shownBy(id, sources, relation, within = []) {
  const names = relation.get(id).columns;
  return sources.get(id).flatMap(([place, table, column]) => {
    if (table === 0 || !relation.has(table) || names[place] === undefined) return [];
    const one = { view: names[place], table, column: relation.get(table).columns[column] };
    if (!sources.has(table) || within.includes(table)) return [one];
    const inner = shownBy(table, sources, relation, [...within, id]);
    const deeper = inner.filter(({ view }) => view === one.column);
    return [one, ...deeper.map((deep) => ({ ...deep, view: one.view }))];
  });
}

// Return the columns of a view that are the key of a table, if the view contains the whole key.
function keyShown(columns, key) {
  const tables = [...new Set(columns.map(({ table }) => table))].filter((table) => key.has(table));
  const whole = tables.flatMap((table) => {
    const names = key.get(table).map((name) => shownAs(columns, table, name)[0]);
    return names.every(Boolean) ? names : [];
  });
  return whole.length > 0 ? whole : null;
}

const shownAs = (columns, table, name) =>
  columns.filter((one) => one.table === table && one.column === name).map(({ view }) => view);

// A foreign key through views of its table, of the referenced table, or of both.
function throughViews(one, shown) {
  const ways = (table, place) =>
    [...shown].flatMap(([id, columns]) => {
      const names = one.columns.map((pair) => shownAs(columns, table, pair[place]));
      return names.every((each) => each.length > 0)
        ? combined(names).map((chosen) => ({ id, chosen }))
        : [];
    });
  const [from, to] = [ways(one.table, 0), ways(one.other, 1)];
  const seen = (a, b) => ({
    ...one,
    table: a?.id ?? one.table,
    other: b?.id ?? one.other,
    columns: one.columns.map((pair, at) => [a?.chosen[at] ?? pair[0], b?.chosen[at] ?? pair[1]]),
  });
  return [
    ...from.map((a) => seen(a, null)),
    ...to.map((b) => seen(null, b)),
    ...from.flatMap((a) => to.map((b) => seen(a, b))),
  ];
}

const combined = ([first, ...more]) =>
  first === undefined
    ? [[]]
    : first.flatMap((one) => combined(more).map((others) => [one, ...others]));
