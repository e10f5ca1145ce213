// Data API and Auth on the stack's Postgres. The Data API is ours, Auth is @supabase/lite's.
// An instance is used until the database restarts.

import postgres from "postgres";
import { App, ConsoleEmailDriver } from "@supabase/lite";
import { createPostgresConnection } from "@supabase/lite/postgres";
import { answerOf } from "./answers.mjs";
import { readCatalogue } from "./catalogue.mjs";
import { changeOf, neededOfCall } from "./changes.mjs";
import { Refusal, leftOut, refusalOf } from "./errors.mjs";
import { described } from "./openapi.mjs";
import { SIZE, withConnection } from "./pool.mjs";
import { readPlan } from "./plan.mjs";
import { checkPreferences, limitsAffected } from "./preferences.mjs";
import { nameOf } from "./media.mjs";
import { understood } from "./requests.mjs";
import { chooseFunction } from "./routines.mjs";
import { settings } from "./settings.mjs";
import { qualified, quoted, raw, sql } from "./sql.mjs";
import {
  bodyOf,
  callStatement,
  countStatement,
  wholeCall,
  wholeChange,
  wholeRead,
} from "./statements.mjs";

// Media types that PostgREST supports and this server does not.
const LEFT_OUT = ["csv", "geojson", "plan"];
const PREPARED = { prepare: true };
const asIs = (value) => value;
const OPTIONS = {
  connect_timeout: 5,
  // short, so that a restarted server is found soon
  backoff: (retries) => Math.min(0.02 * 2 ** retries, 0.5),
  onnotice: () => {},
  connection: { application_name: "data_api", client_min_messages: "warning" },
};
// Idle connections are closed after 30 s, all after 30 minutes, as in PostgREST.
const KEPT = { max: SIZE, idle_timeout: 30, max_lifetime: 1800 };
// Parameters and results are text, because Postgres serializes them.
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
    const catalogue = await readCatalogue(connection.driver, settings);
    const app = await authOver(connection);
    const place = { driver, catalogue };
    const answerData = (request) => answeredBy(request, place);
    const fetch = (request) =>
      new URL(request.url).pathname.startsWith("/rest/v1/")
        ? answerData(request)
        : app.fetch(request);
    return { fetch, close };
  } catch (error) {
    close(0).catch(() => {}); // another instance is opened
    throw error;
  }
}

async function authOver(connection) {
  // @supabase/lite would grant all rights on schemas with RLS to anon, authenticated and
  // service_role.
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
    const [plan, run] = asked.isCall ? callOf(asked, place) : tableOf(asked, place);
    return answerOf(asked, plan, await run());
  } catch (error) {
    const refusal = error.response ? error : refusalOf(error, asked?.claims.role);
    if (refusal.body && place.catalogue.hasShortErrors) {
      const { code, message } = refusal.body;
      refusal.body = { code, message };
    }
    return refusal.response();
  }
}

function tableOf(asked, place) {
  const { catalogue } = place;
  const table = catalogue.tables.get(`${asked.schema}.${asked.name}`) ?? missing(asked);
  const plan = readPlan(table, asked, catalogue);
  const isRead = asked.kind === "read";
  const change = isRead ? null : changeOf(asked, table, plan, catalogue);
  if (!isRead) checkPreferences(asked.prefers);
  const media = negotiated(asked.accepted);
  checkPreferences(asked.prefers);
  const isShown = asked.prefers.return === "representation";
  const body = bodyOf(asked.isHead || (change && !isShown) ? { kind: "nothing" } : media);
  const counting = isRead ? countOf(asked, plan, catalogue) : {};
  const statement = isRead
    ? wholeRead(plan, body, counting.count)
    : wholeChange(plan, change, {
        body,
        isShown,
        key: table.key,
        location: asked.kind === "insert" && asked.prefers.return === "headers-only",
        isUpsert: asked.kind === "upsert" || isMerge(asked),
      });
  const mode = isRead ? "read only" : "read write";
  return [
    { media, table },
    () => answered({ asked, statement, mode, media, explained: counting.explained }, place),
  ];
}

const isMerge = ({ kind, prefers }) =>
  kind === "insert" && prefers.resolution === "merge-duplicates";

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
  const media = negotiated(asked.accepted);
  checkPreferences(asked.prefers);
  if (limitsAffected(asked.prefers) && !chosen.is_set) {
    const message =
      "Function must return SETOF or TABLE when max-affected preference is used with " +
      "handling=strict";
    throw new Refusal(400, { code: "PGRST128", message });
  }
  const call = callStatement(chosen, { call: asked, returned: neededOfCall(plan) });
  const { count } = countOf(asked, plan, catalogue);
  const body = bodyOf(asked.isHead ? { kind: "nothing" } : media, chosen);
  const statement = wholeCall(plan, call, { body, count, isSingleRow: !chosen.is_set });
  const mode = asked.isGet || chosen.volatility !== "v" ? "read only" : "read write";
  return [{ media, chosen }, () => answered({ asked, statement, mode, media, chosen }, place)];
}

// Choose the first supported media type in order of preference.
function negotiated(accepted) {
  for (const media of accepted) {
    if (["json", "any"].includes(media.kind)) return { kind: "json" };
    if (["object", "array"].includes(media.kind)) return media;
  }
  const known = accepted.find(({ kind }) => LEFT_OUT.includes(kind));
  if (known) throw leftOut(nameOf(known));
  const message = `None of these media types are available: ${accepted.map(nameOf).join(", ")}`;
  throw new Refusal(406, { code: "PGRST107", message });
}

// Choose how rows are counted, exactly or by the planner's estimate.
function countOf({ prefers: { count }, kind }, plan, { maxRows }) {
  if (!count) return {};
  const all = countStatement(plan);
  const explained = kind === "read" && count !== "exact" ? sql`explain (format json) ${all}` : null;
  if (count === "planned") return { explained };
  return {
    count: count === "exact" ? all : sql`${all} limit ${raw(String(maxRows + 1))}`,
    explained,
  };
}

function answered({ asked, statement, mode, media, chosen, explained }, { driver, catalogue }) {
  const enter = entrance(asked, catalogue.roles, chosen?.settings ?? {});
  // function that the project runs before every request (`pgrst.db_pre_request`)
  const first = catalogue.preRequest ? [sql`select ${qualified(catalogue.preRequest)}()`] : [];
  return withConnection(() =>
    driver.begin(`${enter.isolation} ${mode}`, async (tx) => {
      const all = [enter, ...first, statement];
      const sent = all.map(({ text, values }) => tx.unsafe(text, values, PREPARED));
      const [row] = (await Promise.all(sent)).at(-1);
      const found = foundOf(row);
      check(asked, media, found);
      if (!explained) return found;
      const [{ "QUERY PLAN": plan }] = await tx.unsafe(explained.text, explained.values);
      const planned = JSON.parse(plan)[0].Plan["Plan Rows"];
      return { ...found, total: totalOf(asked, found, planned, catalogue) };
    }),
  );
}

function foundOf(row) {
  const number = (text) => (text === null || text === undefined ? null : Number(text));
  return {
    ...row,
    rows: number(row.rows),
    total: number(row.total),
    inserted: number(row.inserted),
    location: row.location ? JSON.parse(row.location) : [],
  };
}

function totalOf({ prefers: { count } }, { total }, planned, { maxRows }) {
  if (count === "planned") return planned;
  return total > maxRows ? Math.max(total, planned) : total;
}

// Roll back a change or a call that violates a preference or returns too many rows.
function check({ kind, prefers }, media, { rows }) {
  if (kind === "upsert" && rows !== 1) {
    const message = "Payload values do not match URL in primary key column(s)";
    throw new Refusal(400, { code: "PGRST115", message });
  }
  if (media.kind === "object" && kind !== "upsert" && rows !== 1) {
    throw new Refusal(406, {
      code: "PGRST116",
      message: "Cannot coerce the result to a single JSON object",
      details: `The result contains ${rows} rows`,
    });
  }
  if (
    ["update", "delete", "call"].includes(kind) &&
    limitsAffected(prefers) &&
    rows > prefers.most
  ) {
    throw new Refusal(400, {
      code: "PGRST124",
      message: "Query result exceeds max-affected preference constraint",
      details: `The query affects ${rows} rows`,
    });
  }
}

// Take the caller's role, with the settings of the role and the function, and set the request's
// variables in Postgres.
function entrance(asked, roles, ofFunction) {
  const { claims, method, path, headers, schema, prefers } = asked;
  const { default_transaction_isolation: ofRole, ...ofCaller } = settingsOf(claims.role, roles);
  const { default_transaction_isolation: ofCall, ...hoisted } = ofFunction;
  const { cookie, ...said } = Object.fromEntries(headers);
  const values = {
    search_path: [schema, "public", "extensions"].map(quoted).join(", "),
    ...ofCaller,
    "request.jwt.claims": JSON.stringify(claims),
    "request.method": method,
    "request.path": path,
    "request.headers": JSON.stringify(said),
    "request.cookies": JSON.stringify(cookiesOf(cookie)),
    ...(prefers.timezone === undefined ? {} : { timezone: prefers.timezone }),
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

const cookiesOf = (header) =>
  Object.fromEntries(
    (header ?? "")
      .split(/;\s*/)
      .filter(Boolean)
      .map((one) => one.split(/=(.*)/s)),
  );

function settingsOf(role, roles) {
  const found = roles.get(role);
  if (found) return found;
  // The pool's user could take any role, so the memberships of authenticator decide.
  const [code, message] =
    found === null
      ? ["42501", `permission denied to set role "${role}"`]
      : ["22023", `role "${role}" does not exist`];
  throw Object.assign(new Error(message), { code });
}
