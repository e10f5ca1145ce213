// The Data API and Auth, connected to the Postgres of the stack. The Data API is our own code, and
// Auth is part of @supabase/lite. An instance is used until the database server restarts.

import postgres from "postgres";
import { App, ConsoleEmailDriver } from "@supabase/lite";
import { createPostgresConnection } from "@supabase/lite/postgres";
import { answerOf } from "./answers.mjs";
import { readCatalogue } from "./catalogue.mjs";
import { changeOf, neededOfCall } from "./changes.mjs";
import { Refusal, refusalOf } from "./errors.mjs";
import { described } from "./openapi.mjs";
import { SIZE, withConnection } from "./pool.mjs";
import { readPlan } from "./plan.mjs";
import { understood } from "./requests.mjs";
import { chooseFunction } from "./routines.mjs";
import { settings } from "./settings.mjs";
import { qualified, quoted, sql } from "./sql.mjs";
import {
  allRows,
  bodyOf,
  callStatement,
  countStatement,
  readStatement,
  whole,
} from "./statements.mjs";

const PREPARED = { prepare: true };
const asIs = (value) => value;
const OPTIONS = {
  connect_timeout: 5,
  // retry often, so that the gateway soon finds a restarted server
  backoff: (retries) => Math.min(0.02 * 2 ** retries, 0.5),
  onnotice: () => {},
  connection: { application_name: "data_api", client_min_messages: "warning" },
};
// As in PostgREST, a connection is closed after it was idle for 30 s, and after 30 minutes in any
// case.
const KEPT = { max: SIZE, idle_timeout: 30, max_lifetime: 1800 };
// Parameters and results are passed as text, because Postgres parses and prints them itself.
const TEXTS = {
  boolean: { to: 16, from: [16], serialize: asIs, parse: asIs },
  date: { to: 1184, from: [1082, 1114, 1184], serialize: asIs, parse: asIs },
  bytea: { to: 17, from: [17], serialize: asIs, parse: asIs },
  json: { to: 114, from: [114, 3802], serialize: asIs, parse: asIs },
};

export async function openDataApi() {
  const url = settings.databaseUrl;
  const driver = postgres(url, { ...OPTIONS, ...KEPT, types: TEXTS, fetch_types: false });
  const connection = createPostgresConnection({ url, postgresOptions: { ...OPTIONS, max: 4 } });
  const close = (timeout) =>
    Promise.all([driver.end({ timeout }), connection.driver.end({ timeout })]);
  try {
    const read = () => readCatalogue(connection.driver, settings);
    const place = { driver, catalogue: await read() };
    const app = await authOver(connection);
    const answerData = (request) => answeredBy(request, place);
    const fetch = (request) =>
      new URL(request.url).pathname.startsWith("/rest/v1/")
        ? answerData(request)
        : app.fetch(request);
    const reload = async () => {
      place.catalogue = await read();
    };
    return { fetch, close, reload };
  } catch (error) {
    close(0).catch(() => {}); // another instance is opened
    throw error;
  }
}

async function authOver(connection) {
  // By default, @supabase/lite would grant anon, authenticated and service_role all rights on
  // schemas whose tables have RLS.
  connection.ensureRlsContext = async () => true;
  const app = new App({
    connection,
    auth: {
      enabled: true,
      jwt_secret: settings.jwtSecret,
      publishable_key: settings.publishableKey,
      secret_key: settings.secretKey,
      site_url: settings.siteUrl,
    },
    api: { enabled: false },
    options: { server: { admin: false }, drivers: { email: new ConsoleEmailDriver() } },
  });
  await app.init();
  return app;
}

async function answeredBy(request, place) {
  let asked = null;
  try {
    asked = await understood(request);
    if (!asked.isCall && asked.name === "") return described(asked);
    const [of, run] = asked.isCall ? callOf(asked, place) : tableOf(asked, place);
    return answerOf(asked, of, await run());
  } catch (error) {
    const refusal = error.response ? error : refusalOf(error, asked?.claims.role);
    if (refusal.body && place.catalogue.hasShortErrors) {
      const { code, message } = refusal.body;
      refusal.body = { code, message };
    }
    // Node omits the body of a response to HEAD, so log the name of the missing feature.
    if (request.method === "HEAD" && refusal.status === 501) console.error(refusal.message);
    return refusal.response();
  }
}

function tableOf(asked, place) {
  const { catalogue } = place;
  const table = catalogue.tables.get(`${asked.schema}.${asked.name}`) ?? missing(asked);
  const plan = readPlan(table, asked, catalogue);
  const isRead = asked.kind === "read";
  const isShown = isRead || asked.prefers.return === "representation";
  const body = bodyOf(asked.isHead || !isShown ? "nothing" : asked.accepts);
  const read = readStatement(plan);
  const statement = isRead
    ? whole({ first: read, rows: allRows, body, count: countOf(asked, plan) })
    : whole({
        first: changeOf(asked, table, plan, catalogue),
        rows: isShown ? read : allRows,
        body,
        isUpsert: asked.prefers.resolution === "merge-duplicates",
      });
  const mode = isRead ? "read only" : "read write";
  return [{ plan, table }, () => answered({ asked, statement, mode }, place)];
}

function missing({ schema, name }) {
  throw new Refusal(404, {
    code: "PGRST205",
    message: `Could not find the table '${schema}.${name}' in the schema cache`,
  });
}

function callOf(asked, place) {
  const { catalogue } = place;
  const chosen = chooseFunction(asked, catalogue.functions);
  const of = { schema: chosen.schema, name: chosen.is_row ? chosen.returned : chosen.name };
  const plan = readPlan(of, asked, catalogue);
  const call = callStatement(chosen, { call: asked, returned: neededOfCall(plan) });
  const body = bodyOf(asked.accepts, chosen);
  const [rows, count] = [readStatement(plan), countOf(asked, plan)];
  const statement = whole({ first: call, rows, body, count, isSingleRow: !chosen.is_set });
  const mode = chosen.volatility === "v" ? "read write" : "read only";
  return [{ plan, chosen }, () => answered({ asked, statement, mode, chosen }, place)];
}

const countOf = ({ prefers }, plan) => (prefers.count ? countStatement(plan) : null);

function answered({ asked, statement, mode, chosen }, { driver, catalogue }) {
  const enter = entrance(asked, catalogue.roles, chosen?.settings ?? {});
  // function that the project runs before each request (`pgrst.db_pre_request`)
  const first = catalogue.preRequest ? [sql`select ${qualified(catalogue.preRequest)}()`] : [];
  return withConnection(() =>
    driver.begin(`${enter.isolation} ${mode}`, async (tx) => {
      const all = [enter, ...first, statement];
      const sent = all.map(({ text, values }) => tx.unsafe(text, values, PREPARED));
      const [row] = (await Promise.all(sent)).at(-1);
      checkSingle(asked, row);
      return row;
    }),
  );
}

// If the request accepts only one object, roll back a change or call that returns no row or several
// rows.
function checkSingle({ accepts }, { rows }) {
  if (accepts !== "object" || rows === 1) return;
  throw new Refusal(406, {
    code: "PGRST116",
    message: "Cannot coerce the result to a single JSON object",
    details: `The result contains ${rows} rows`,
  });
}

// Switch to the caller's role, apply the settings of the role and of the function, and set the
// variables of the request in Postgres.
function entrance(asked, roles, ofFunction) {
  const { claims, method, path, headers, schema } = asked;
  const { default_transaction_isolation: ofRole, ...ofCaller } = settingsOf(claims.role, roles);
  const { default_transaction_isolation: ofCall, ...hoisted } = ofFunction;
  const values = {
    search_path: [schema, "public", "extensions"].map(quoted).join(", "),
    ...ofCaller,
    "request.jwt.claims": JSON.stringify(claims),
    "request.method": method,
    "request.path": path,
    "request.headers": JSON.stringify(Object.fromEntries(headers)),
    ...hoisted,
    role: claims.role, // last, because the other settings need no right of the caller
  };
  const names = Object.keys(values);
  const calls = names.map((_, i) => `set_config($${2 * i + 1}, $${2 * i + 2}, true)`);
  return {
    isolation: `isolation level ${ofCall ?? ofRole ?? "read committed"}`,
    text: `select ${calls.join(", ")}`,
    values: names.flatMap((name) => [name, values[name]]),
  };
}

function settingsOf(role, roles) {
  const found = roles.get(role);
  if (found) return found;
  // The user of the connections could switch to any role, so check that authenticator is a member
  // of the role.
  const [code, message] =
    found === null
      ? ["42501", `permission denied to set role "${role}"`]
      : ["22023", `role "${role}" does not exist`];
  throw Object.assign(new Error(message), { code });
}
