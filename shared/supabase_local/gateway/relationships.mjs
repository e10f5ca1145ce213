// Relationships between tables that follow from their foreign keys, in both directions.

const FOREIGN_KEYS = `
  select f.conname as name, f.conrelid = f.confrelid as is_self,
    json_build_object('schema', n.nspname, 'name', c.relname) as from,
    json_build_object('schema', m.nspname, 'name', d.relname) as to,
    (
      select json_agg(json_build_array(a.attname, b.attname) order by k.place)
      from unnest(f.conkey, f.confkey) with ordinality as k (one, other, place)
      join pg_attribute as a on a.attrelid = f.conrelid and a.attnum = k.one
      join pg_attribute as b on b.attrelid = f.confrelid and b.attnum = k.other
    ) as columns,
    exists (
      select from pg_constraint as u
      where u.conrelid = f.conrelid and u.contype in ('p', 'u')
        and u.conkey @> f.conkey and u.conkey <@ f.conkey
    ) as is_one
  from pg_constraint as f
  join pg_class as c on c.oid = f.conrelid
  join pg_namespace as n on n.oid = c.relnamespace
  join pg_class as d on d.oid = f.confrelid
  join pg_namespace as m on m.oid = d.relnamespace
  where f.contype = 'f' and f.conparentid = 0 and n.nspname = any ($1) and m.nspname = any ($1)
  order by f.conrelid, f.conname`;

// Read the relationships of the schemas into a map by the table at which they start.
export async function relationshipsOf(tx, schemas) {
  const rows = await tx.unsafe(FOREIGN_KEYS, [schemas]);
  const all = rows.map(relationship);
  return Map.groupBy([...all, ...all.map(inverse)], ({ from: { schema, name } }) => {
    return `${schema}.${name}`;
  });
}

const relationship = ({ is_one: isOne, is_self: isSelf, ...key }) => ({
  ...key,
  kind: isOne ? "one-to-one" : "many-to-one",
  isToOne: true,
  isSelf,
});

function inverse({ kind, from, to, columns, ...key }) {
  const isToOne = kind === "one-to-one";
  return {
    ...key,
    kind: isToOne ? kind : "one-to-many",
    from: to,
    to: from,
    columns: columns.map(([one, other]) => [other, one]),
    isToOne,
  };
}
