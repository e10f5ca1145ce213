// What `supabase db diff` makes of two databases: its default way until pg-delta, over migra.
// The CLI's script: apps/cli-go/internal/db/diff/templates/migra.ts of github.com/supabase/cli.
import { createClient, sql } from "@pgkit/client";
import { Migration } from "@pgkit/migra";

const [source, target] = process.argv.slice(2).map((url) => createClient(url));
const MANAGED = ["auth", "realtime", "storage"];
// as far as the local base has them
const OTHERS = ["pg_catalog", "extensions", "graphql", "graphql_public", "net", "vault"].concat([
  "supabase_functions",
  "supabase_migrations",
]);

await target.query(sql`set role postgres`);
for (const each of [source, target]) await each.query(sql`set search_path = ''`);
const options = { ignore_extension_versions: true };
const whole = await Migration.create(source, target, {
  ...options,
  exclude_schema: [...MANAGED, ...OTHERS],
});
whole.set_safety(false);
whole.add_all_changes(true);
const found = [whole.sql];
for (const schema of MANAGED) {
  const part = await Migration.create(source, target, { ...options, schema });
  part.set_safety(false);
  for (const kind of ["triggers", "rlspolicies"]) {
    part.add(part.changes[kind]({ drops_only: true }));
    part.add(part.changes[kind]({ creations_only: true }));
  }
  found.push(part.sql);
}
console.log(found.join(""));
await Promise.all([source.end(), target.end()]);
