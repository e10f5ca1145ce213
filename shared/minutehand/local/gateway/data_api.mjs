// Data API and Auth over the stack's Postgres: functions are called here, rows are read and written
// by @supabase/lite, with the places mended in which it differs from PostgREST. One instance serves
// one life of the database.

import { AsyncLocalStorage } from "node:async_hooks";
import { App, ConsoleEmailDriver } from "@supabase/lite";
import { createPostgresConnection } from "@supabase/lite/postgres";
import { readCatalogue } from "./catalogue.mjs";
import { Refusal, errorForLite, refusalOf } from "./errors.mjs";
import { conditions, filtersOf, placeFilters } from "./filters.mjs";
import { appliedPreferences, checkPreferences } from "./preferences.mjs";
import { parseExactly, understood } from "./requests.mjs";
import { callFunction, ident, withType } from "./rpc.mjs";
import { settings } from "./settings.mjs";

const asIs = (value) => (typeof value === "string" ? value : JSON.stringify(value));

// "2026-11-20 08:00:00.1+00" -> "2026-11-20T08:00:00.1+00:00", as PostgREST writes instants
const isoInstant = (text) => text.replace(" ", "T").replace(/([+-]\d\d)$/, "$1:00");

const exactNumber = (text) => (/^-?\d/.test(text) ? parseExactly(text) : text); // NaN, Infinity

const TYPES = {
  // strings pass through: array and object arguments would otherwise arrive encoded twice
  json: { to: 114, from: [114], serialize: asIs, parse: (text) => parseExactly(text) },
  jsonb: { to: 3802, from: [3802], serialize: asIs, parse: (text) => parseExactly(text) },
  numeric: { to: 1700, from: [1700], serialize: String, parse: exactNumber },
  bigint: { to: 20, from: [20], serialize: String, parse: exactNumber },
  timestamptz: { to: 1184, from: [1184], serialize: (value) => value, parse: isoInstant },
};

const PREPARED = { prepare: true };
const present = new AsyncLocalStorage(); // the request that lite is answering

export async function openDataApi() {
  const connection = createPostgresConnection({
    url: settings.databaseUrl,
    postgresOptions: {
      types: TYPES,
      max: 16,
      connect_timeout: 5,
      backoff: (retries) => Math.min(0.02 * 2 ** retries, 0.5), // a server back is found soon
      onnotice: () => {},
      connection: { application_name: "data_api", client_min_messages: "warning" },
    },
  });
  try {
    return await apiOver(connection);
  } catch (error) {
    connection.driver.end({ timeout: 0 }).catch(() => {}); // another one is opened
    throw error;
  }
}

async function apiOver(connection) {
  const { driver } = connection;
  const catalogue = await readCatalogue(driver, settings);
  patch(connection, catalogue);
  const app = await appOn(connection);
  // kept: no request reads the catalogue again
  const { timezones } = await connection.introspect({ useCache: true });
  const answerData = async (request) => {
    let asked = null;
    try {
      asked = await understood(request);
      checkPreferences(asked.prefers, timezones);
      return await answered(asked, request, { app, driver, catalogue });
    } catch (error) {
      const refusal = error.response ? error : refusalOf(error, asked?.claims.role);
      return (refusal ?? lost(error)).response();
    }
  };
  return {
    fetch: (request) =>
      new URL(request.url).pathname.startsWith("/rest/v1/")
        ? answerData(request)
        : app.fetch(request),
    close: (timeout) => driver.end({ timeout }),
  };
}

// anything that is not the database's own word is a connection that broke
function lost(error) {
  const message = "Database client error. Retrying the connection.";
  return new Refusal(503, { code: "PGRST001", message, details: error.message });
}

async function answered(asked, request, { app, driver, catalogue }) {
  if (asked.isCall) {
    const answer = await callFunction(asked, catalogue, (text, values, mode) => {
      const { text: enter, values: given } = entrance(asked, catalogue);
      return driver.begin(mode, async (tx) => {
        const both = [tx.unsafe(enter, given, PREPARED), tx.unsafe(text, values, PREPARED)];
        return (await Promise.all(both))[1][0];
      });
    });
    if (answer) return answer;
  } else if (asked.name && !catalogue.tables.has(`${asked.schema}.${asked.name}`)) {
    const message = `Could not find the table '${asked.schema}.${asked.name}' in the schema cache`;
    throw new Refusal(404, { code: "PGRST205", message });
  }
  return answeredByLite(asked, request, app);
}

// Who the caller is has been decided: lite lets the secret key do all, and `entrance` decides.
async function answeredByLite(asked, request, app) {
  const headers = new Headers(request.headers);
  if (asked.name) headers.set("apikey", settings.secretKey);
  for (const name of ["authorization", "user-agent", "content-length"]) headers.delete(name);
  // without a limit of rows, PostgREST counts them
  const prefer = request.headers.get("prefer")?.replace("count=estimated", "count=exact");
  if (prefer) headers.set("prefer", prefer);
  const method = asked.isHead ? "GET" : request.method; // without a body an error has no words
  const body = asked.isGet || method === "DELETE" ? null : asked.body;
  const url = new URL(request.url);
  url.search = new URLSearchParams([...asked.others, ...asked.arguments]);
  asked.conditions = filtersOf(asked.filters);
  const answer = await present.run(asked, () =>
    app.fetch(new Request(url, { method, headers, body })),
  );
  if (asked.refusal) throw asked.refusal;
  // beyond the last row PostgREST answers as to rows
  const isOfRows = answer.ok || (answer.status === 416 && answer.headers.has("content-range"));
  return isOfRows ? withHeaders(answer, asked) : inItsWords(answer, asked);
}

function withHeaders(answer, asked) {
  const headers = new Headers(answer.headers);
  const applied = appliedPreferences(asked.prefers, asked.kind);
  if (applied) headers.set("preference-applied", applied);
  else headers.delete("preference-applied");
  const isEmpty = answer.status === 204 || asked.prefers.return !== "representation";
  if (isEmpty && !asked.isGet && !asked.isCall) headers.delete("content-type");
  else withType(headers, asked);
  return new Response(asked.isHead ? null : answer.body, { status: answer.status, headers });
}

async function inItsWords(answer, asked) {
  if (!answer.headers.get("content-type")?.includes("json")) return answer;
  const { code, message, details, hint } = await answer.json();
  if (code === "SUP" && message.includes("closing quote"))
    return new Refusal(400, {
      code: "PGRST100",
      message: message.replace("Error: ", ""),
    }).response();
  if (!code) return Response.json({ message }, { status: answer.status });
  // lite names a schema that is always the same
  const said =
    code === "PGRST200"
      ? details.replace(/in the schema '.*?'/, `in the schema '${asked.schema}'`)
      : details;
  const authenticate = answer.headers.get("www-authenticate");
  const headers = authenticate ? { "www-authenticate": authenticate } : {};
  return new Refusal(answer.status, { code, message, details: said, hint }, headers).response();
}

async function appOn(connection) {
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
  return app;
}

function patch(connection, catalogue) {
  connection.kysely = connection.kysely.withPlugin(conditions);
  connection.normalizeDbError = (error) => errorForLite(error, present.getStore()?.claims.role);

  // lite takes a catalogue that it could not read for an empty one, in which no function is found
  const introspect = connection.introspect.bind(connection);
  connection.introspect = async (options) => {
    const read = await introspect(options);
    if (!read.functions) throw new Error("the catalogue could not be read");
    return read;
  };

  // lite would grant everything on every schema with RLS to anon, authenticated and service_role;
  // grants are the migrations' business, and it must enter the caller's role for every request
  connection.ensureRlsContext = async () => true;
  connection.applyJwtSessionContext = (transaction) => {
    const { text, values } = entrance(present.getStore(), catalogue);
    const query = { kind: "RawNode", sqlFragments: [], parameters: [] };
    return transaction.executeQuery({
      sql: text,
      parameters: values,
      query,
      queryId: { queryId: "enter" },
    });
  };
  connection.applyRpcRequestGucs = async () => {}; // said on entering

  // the caller's JSON, in the caller's spelling, is cast to the columns' types by Postgres
  connection.onPostgrestAST = async (ast) => {
    const asked = present.getStore();
    const columnsOf = (table) => catalogue.tables.get(`${asked.schema}.${table}`);
    try {
      if (asked) placeFilters(asked.conditions, asked, ast, columnsOf);
    } catch (refusal) {
      asked.refusal = refusal; // lite has words of its own for it
      throw refusal;
    }
    const types = catalogue.tables.get(`${asked?.schema}.${ast.from}`);
    if (ast.values && asked?.value && types) ast.values = castBy(types, asked);
    if (ast.type === "rpc" && asked?.value) ast.args = asTexts(asked.value);
    return ast;
  };
}

function castBy(types, { value }) {
  const cast = (name, given) => {
    if (!(name in types)) return given;
    const column = ident(name);
    const record = JSON.stringify({ [name]: given });
    const before = `(select ${column} from pg_catalog.json_to_record(`;
    return expression([before, `::text::json) as _(${column} ${types[name]}))`], record);
  };
  const row = (given) =>
    Object.fromEntries(Object.entries(given).map(([name, one]) => [name, cast(name, one)]));
  return Array.isArray(value) ? value.map(row) : row(value);
}

// SQL in a value's place, as lite's query builder takes it
const expression = (sqlFragments, value) => ({
  expressionType: undefined,
  toOperationNode: () => ({
    kind: "RawNode",
    sqlFragments,
    parameters: [{ kind: "ValueNode", value }],
  }),
});

// The arguments of a call that is left to lite, as Postgres reads them.
function asTexts(value) {
  const given = Array.isArray(value) ? (value[0] ?? {}) : value;
  const text = (one) => (one === null || Array.isArray(one) ? one : asIs(one));
  return Object.fromEntries(Object.entries(given).map(([name, one]) => [name, text(one)]));
}

// Take the caller's role, with its timeout, and say to Postgres what it may know of the request.
function entrance(asked, { roles }) {
  const { claims, method, path, headers, schema, prefers } = asked;
  const values = {
    search_path: [schema, "public", "extensions"].map(ident).join(", "),
    "request.jwt.claims": JSON.stringify(claims),
    "request.jwt.claim.sub": String(claims.sub ?? ""),
    "request.jwt.claim.role": claims.role,
    "request.method": method,
    "request.path": path,
    "request.headers": JSON.stringify(Object.fromEntries(headers)),
    statement_timeout: timeoutOf(claims.role, roles),
    ...(prefers.timezone ? { timezone: prefers.timezone } : {}),
    role: claims.role, // last: the others need no right of the caller
  };
  const names = Object.keys(values);
  const calls = names.map((_, i) => `set_config($${2 * i + 1}, $${2 * i + 2}, true)`);
  return {
    text: `select ${calls.join(", ")}`,
    values: names.flatMap((name) => [name, values[name]]),
  };
}

function timeoutOf(role, roles) {
  const timeout = roles.get(role);
  if (typeof timeout === "string") return timeout;
  // the pool's own user could assume any role; authenticator's memberships are the limit
  const [code, message] =
    timeout === null
      ? ["42501", `permission denied to set role "${role}"`]
      : ["22023", `role "${role}" does not exist`];
  throw Object.assign(new Error(message), { code });
}
