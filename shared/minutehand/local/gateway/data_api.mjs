// Data API and Auth: @supabase/lite over the stack's Postgres, with the places mended in which it
// differs from the hosted services. One instance serves one life of the database.

import { App, ConsoleEmailDriver } from "@supabase/lite";
import { createPostgresConnection } from "@supabase/lite/postgres";
import { asPostgrestError } from "./errors.mjs";
import { settings } from "./settings.mjs";

const asIs = (value) => (typeof value === "string" ? value : JSON.stringify(value));

// "2026-11-20 08:00:00.1+00" -> "2026-11-20T08:00:00.1+00:00", as PostgREST writes instants
const isoInstant = (text) => text.replace(" ", "T").replace(/([+-]\d\d)$/, "$1:00");

const TYPES = {
  // strings pass through: array and object arguments would otherwise arrive encoded twice
  json: { to: 114, from: [114], serialize: asIs, parse: JSON.parse },
  jsonb: { to: 3802, from: [3802], serialize: asIs, parse: JSON.parse },
  timestamptz: { to: 1184, from: [1184], serialize: (value) => value, parse: isoInstant },
};

export async function openDataApi() {
  const connection = createPostgresConnection({
    url: settings.databaseUrl,
    postgresOptions: {
      types: TYPES,
      max: 16,
      connect_timeout: 5,
      backoff: (retries) => Math.min(0.02 * 2 ** retries, 0.5), // a server that is back is found soon
      onnotice: () => {},
      connection: { application_name: "data_api", client_min_messages: "warning" },
    },
  });
  try {
    const app = await appOn(connection);
    return {
      fetch: (request) => app.fetch(request),
      close: (timeout) => connection.driver.end({ timeout }),
    };
  } catch (error) {
    connection.driver.end({ timeout: 0 }).catch(() => {}); // another one is opened
    throw error;
  }
}

async function appOn(connection) {
  const roles = new Map(); // the roles a request may take, and their statement_timeout
  await readRoles(connection.driver, roles);
  patch(connection, roles);
  const app = new App({
    connection,
    auth: {
      enabled: true,
      jwt_secret: settings.jwtSecret,
      publishable_key: settings.publishableKey,
      secret_key: settings.secretKey,
      site_url: settings.siteUrl,
    },
    api: { enabled: true, schemas: settings.schemas },
    options: { server: { admin: false }, drivers: { email: new ConsoleEmailDriver() } },
  });
  await app.init();
  await connection.introspect({ useCache: true }); // kept: no request reads the catalogue again
  return app;
}

async function readRoles(driver, roles) {
  const rows = await driver`
    select roles.rolname as role, (
      select split_part(setting, '=', 2) from unnest(roles.rolconfig) as setting
      where setting like 'statement_timeout=%'
    ) as timeout
    from pg_catalog.pg_roles as roles
    where pg_has_role('authenticator', roles.oid, 'member')`;
  // a role without a setting of its own keeps that of authenticator, who signs in for it
  const inherited = rows.find(({ role }) => role === "authenticator")?.timeout ?? "0";
  roles.clear();
  for (const { role, timeout } of rows) roles.set(role, timeout ?? inherited);
  roles.delete("authenticator");
}

function patch(connection, roles) {
  connection.normalizeDbError = asPostgrestError;

  // lite takes a catalogue that it could not read for an empty one, in which no function is found
  const introspect = connection.introspect.bind(connection);
  connection.introspect = async (options) => {
    const catalogue = await introspect(options);
    if (!catalogue.functions) throw new Error("the catalogue could not be read");
    return catalogue;
  };

  // lite would grant everything on every schema with RLS to anon, authenticated and service_role;
  // grants are the migrations' business, and it must enter the caller's role for every request
  connection.ensureRlsContext = async () => true;

  // one round trip instead of six, and the role's own statement_timeout, as PostgREST applies it
  connection.applyJwtSessionContext = async (transaction, context) => {
    const { auth, storage } = context;
    const role = auth?.role || "anon";
    if (!roles.has(role)) {
      // the pool's own user could assume any role; authenticator's memberships are the limit
      throw Object.assign(new Error(`permission denied to set role "${role}"`), { code: "42501" });
    }
    const claims = auth?.jwt && typeof auth.jwt === "object" ? auth.jwt : { role };
    const values = {
      "request.jwt.claims": JSON.stringify(claims),
      "request.jwt.claim.sub": String(auth?.uid ?? ""),
      "request.jwt.claim.role": role,
      "storage.operation": String(storage?.operation ?? ""),
      statement_timeout: roles.get(role),
      role, // last: the others need no right of the caller
    };
    await setAll(transaction, values);
  };

  // likewise one round trip instead of five
  connection.applyRpcRequestGucs = (transaction, request) =>
    setAll(transaction, {
      "response.status": "",
      "response.headers": "",
      "request.method": request.method,
      "request.path": request.path,
      "request.headers": JSON.stringify(request.requestHeaders ?? {}),
    });
}

function setAll(transaction, values) {
  const names = Object.keys(values);
  const calls = names.map((_, i) => `set_config($${2 * i + 1}, $${2 * i + 2}, true)`);
  return transaction.executeQuery({
    sql: `select ${calls.join(", ")}`,
    parameters: names.flatMap((name) => [name, values[name]]),
    query: { kind: "RawNode", sqlFragments: [], parameters: [] },
    queryId: { queryId: "set_all" },
  });
}
