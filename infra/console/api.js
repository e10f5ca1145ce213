// Everything the console asks of the outside: supabase-js for reads and Auth, fetch for the API.
// The browser's key reads under row level security; writes go through the API.

import { setSchema } from "./lib/jobs/reads.js";
import { createStore } from "./lib/store.js";

/** @import { Given, Places } from "./lib/calls.js" */
/** @import { JobTrace, ListedJob, Routes } from "./lib/routes.js" */
/** @import { Attempt, DeadLetterGroup, Replay } from "./lib/jobs/types.js" */
/** @typedef {"cancel" | "retry"} BulkAction */
/** @typedef {{[name: string]: unknown}} BulkFilter */

const TIMEOUT_MS = 20_000;

/** A refusal by the API, with what people and code need to act on it. */
export class ApiError extends Error {
  /**
   * @param {{status: number, code?: string | null, error?: string, detail?: unknown, request_id?: string | null,
   *   retryAfter?: number | null}} refusal `status` 0: no answer came; `retryAfter` in seconds.
   */
  constructor({
    status,
    code = null,
    error,
    detail = null,
    request_id: requestId = null,
    retryAfter = null,
  }) {
    super(error || `The server answered ${status}`);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.detail = detail;
    this.requestId = requestId;
    this.retryAfter = retryAfter;
  }
}

/** @type {import("@supabase/supabase-js").SupabaseClient<any, any, any>} */
let client;
/** @type {any} */
let config = null;
let schema = "public"; // where what users see was installed
let apiOrigin = globalThis.location?.origin;
let isHost = false; // whether this client, and its signing out, are the console's own

/** @typedef {{id: string, name: string, role: "manager" | "member"}} Workspace */
/** @typedef {{id: string, email: string}} User */
/**
 * @typedef {{status: "starting" | "out" | "in" | "failed", user: User | null, workspaces: Workspace[],
 *   workspace: Workspace | null, reason: string | null, isNew: boolean, error?: any}} Session `reason`
 *   says why someone was signed out who did not ask for it; `isNew`: came by a link that Auth mailed, and has no
 *   password yet.
 */

/** @type {Session} */
const SIGNED_OUT = {
  status: "out",
  user: null,
  workspaces: [],
  workspace: null,
  reason: null,
  isNew: false,
};

export const session = createStore(/** @type {Session} */ ({ ...SIGNED_OUT, status: "starting" }));

/** The signed-in supabase-js client. */
export const supabase = () => client;
/** The address of something the API serves, for a link or a frame. */
export const apiAddress = (/** @type {string} */ path) => new URL(path, apiOrigin).href;

/** The schema's tables and functions, over that client. */
export const data = () => client.schema(schema);
/**
 * @typedef {{supabaseUrl: string, supabaseKey: string, schema?: string, stage?: string,
 *   demoAccounts?: Array<{email: string, password: string, label: string}>}} Settings The accounts are
 *   of a developer's machine.
 */
/**
 * What `/config.json` said.
 *
 * @returns {Settings}
 */
export const settings = () => config;

// Start and sign-in ---------------------------------------------------------------------------

/** Read the configuration, make the client, take up a kept session. */
export async function start() {
  const answer = await fetch("/config.json", {
    cache: "no-store",
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  if (!answer.ok)
    throw new ApiError({
      status: answer.status,
      error: "The console's configuration could not be read",
    });
  config = await answer.json();
  schema = config.schema ?? "public";
  hadSession = localStorage.getItem(SESSION_KEY) !== null;
  client = globalThis.supabase.createClient(config.supabaseUrl, config.supabaseKey, {
    db: { schema },
    auth: { storageKey: SESSION_KEY, detectSessionInUrl: false },
    realtime: { heartbeatIntervalMs: 15_000 },
  });
  setSchema(client, schema);
  isHost = true;
  await takeLink();
  client.auth.onAuthStateChange((event, found) => {
    // supabase-js holds a lock here: ask nothing of it before it is let go
    if (event === "SIGNED_OUT") setTimeout(signedOut);
    else if (found && found.user.id !== session.get().user?.id)
      setTimeout(() => signedIn(found.user));
    else if (event === "INITIAL_SESSION" && !found) setTimeout(signedOut);
  });
}

/** Take up the session that a mailed link brings in the address, or say why it brings none. */
async function takeLink() {
  const said = new URLSearchParams(location.hash.slice(1));
  const accessToken = said.get("access_token");
  let problem = said.get("error_description");
  if (!accessToken && !problem) return;
  // neither a session nor a refusal stays in the address
  history.replaceState(history.state, "", location.pathname + location.search);
  const { data: kept } = await client.auth.getSession();
  // a link is not a way to replace a session without a word
  if (kept.session) return;
  if (accessToken) {
    const { error } = await client.auth.setSession({
      access_token: accessToken,
      refresh_token: said.get("refresh_token") ?? "",
    });
    problem = error?.message ?? null;
  }
  session.set({
    ...session.get(),
    isNew: !problem && ["invite", "recovery"].includes(said.get("type") ?? ""),
    reason: problem ? `The link was not accepted: ${problem}. Ask for a new one.` : null,
  });
}

/**
 * Choose the password of an account that came by a mailed link.
 *
 * @param {string} password
 */
export async function choosePassword(password) {
  const { error } = await client.auth.updateUser({ password });
  if (error)
    throw new ApiError({ status: error.status ?? 0, code: error.code, error: error.message });
  session.set({ ...session.get(), isNew: false });
}

/**
 * Use the parts outside the console, with a client that the page keeps and signs in itself.
 *
 * @param {any} supabaseClient A client of supabase-js, in any version.
 * @param {{api?: string, schema?: string}} [options] Where the HTTP API is, if not on the page's own
 *   origin; the schema that was chosen at the install.
 */
export function connect(
  supabaseClient,
  { api = location.origin, schema: installed = "public" } = {},
) {
  client = supabaseClient;
  schema = installed;
  setSchema(client, schema);
  apiOrigin = api;
}

const SESSION_KEY = "minutehand.session";
let isLeaving = false;
let hadSession = false; // whether one was kept from the last time, and is not known to be valid

function signedOut() {
  const wasIn = session.get().status === "in" || hadSession;
  const reason =
    wasIn && !isLeaving
      ? "Your session has ended. Sign in again to continue where you were."
      : session.get().reason;
  isLeaving = false;
  hadSession = false;
  session.set({ ...SIGNED_OUT, reason });
}

async function signedIn(/** @type {{id: string, email?: string}} */ user) {
  if (session.get().user?.id === user.id) return;
  session.set({ ...session.get(), user: { id: user.id, email: user.email ?? "" } });
  try {
    const workspaces = await readWorkspaces(user.id);
    const kept = localStorage.getItem("minutehand.workspace");
    const workspace = workspaces.find((one) => one.id === kept) ?? workspaces[0] ?? null;
    if (session.get().user?.id !== user.id) return; // signed out meanwhile
    session.set({
      status: "in",
      user: { id: user.id, email: user.email ?? "" },
      workspaces,
      workspace,
      reason: null,
      isNew: session.get().isNew,
    });
  } catch (error) {
    session.set({ ...SIGNED_OUT, status: "failed", error });
  }
}

/**
 * The workspaces a person sees: those they belong to, for staff all.
 *
 * @param {string} userId
 * @returns {Promise<Workspace[]>}
 */
async function readWorkspaces(userId) {
  const [found, memberships] = await Promise.all([
    unwrap(data().from("workspaces").select("id,name").order("name")),
    unwrap(data().from("workspace_members").select("workspace_id,role").eq("user_id", userId)),
  ]);
  const roles = new Map(
    memberships.map((/** @type {{workspace_id: string, role: string}} */ one) => [
      one.workspace_id,
      one.role,
    ]),
  );
  return found.map((/** @type {{id: string, name: string}} */ one) => ({
    ...one,
    role: roles.get(one.id) ?? "member",
  }));
}

/** Read them again, after one was joined, and look at `id` from now on. */
export async function refreshWorkspaces(/** @type {string} */ id) {
  const now = session.get();
  if (!now.user) return;
  const workspaces = await readWorkspaces(now.user.id);
  const workspace =
    workspaces.find((one) => one.id === (id ?? now.workspace?.id)) ?? workspaces[0] ?? null;
  session.set({ ...session.get(), workspaces, workspace });
}

export async function signIn(/** @type {string} */ email, /** @type {string} */ password) {
  const { error } = await client.auth.signInWithPassword({ email, password });
  if (error)
    throw new ApiError({ status: error.status ?? 0, code: error.code, error: error.message });
}

export async function signOut() {
  isLeaving = true;
  await client.auth.signOut({ scope: "local" });
}

export function chooseWorkspace(/** @type {string} */ id) {
  const now = session.get();
  const workspace = now.workspaces.find((one) => one.id === id);
  if (!workspace) return;
  localStorage.setItem("minutehand.workspace", id);
  session.set({ ...now, workspace });
}

// The API -------------------------------------------------------------------------------------

async function token({ fresh = false } = {}) {
  const { data: found, error } = fresh
    ? await client.auth.refreshSession()
    : await client.auth.getSession();
  const isRefused = error?.status !== undefined && error.status >= 400 && error.status < 500;
  if (error && !isRefused) {
    // no one is signed out because Auth is unavailable for a moment
    throw new ApiError({
      status: 0,
      code: "unreachable",
      error: "Your session could not be renewed: the server cannot be reached",
    });
  }
  if (error || !found.session) {
    if (isHost) await client.auth.signOut({ scope: "local" });
    throw new ApiError({
      status: 401,
      code: "unauthorized",
      error: "Your session has ended. Sign in again.",
    });
  }
  return found.session.access_token;
}

/**
 * Call the API as the signed-in user. A token that was refused is renewed once.
 *
 * @param {string} method
 * @param {string} path Below the origin, as `/api/jobs`.
 * @param {{body?: object, form?: FormData, query?: object, headers?: object, signal?: AbortSignal,
 *   as?: "json" | "blob", token?: string}} [options]
 */
export async function request(
  method,
  path,
  { body, form, query, headers, signal, as = "json", token: given } = {},
) {
  const url = new URL(path, apiOrigin);
  for (const [name, value] of Object.entries(query ?? {})) {
    for (const one of [value].flat())
      if (one !== null && one !== undefined && one !== "") url.searchParams.append(name, one);
  }
  const send = async (/** @type {string | null} */ bearer) => {
    const timeout = AbortSignal.timeout(form ? 300_000 : TIMEOUT_MS);
    try {
      return await fetch(url, {
        method,
        headers: {
          ...(body && { "Content-Type": "application/json" }),
          Authorization: `Bearer ${bearer}`,
          ...headers,
        },
        body: form ?? (body && JSON.stringify(body)),
        signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw unreachable(error);
    }
  };
  let answer = await send(given ?? (await token()));
  if (answer.status === 401 && !given) answer = await send(await token({ fresh: true }));
  if (!answer.ok) {
    const retryAfter = Number.parseInt(answer.headers.get("Retry-After") ?? "", 10); // seconds
    const said = await errorBody(answer);
    // API Gateway's own 429 has neither our words nor a time
    const isGateways = answer.status === 429 && !said.code;
    throw new ApiError({
      status: answer.status,
      retryAfter: Number.isNaN(retryAfter) ? (isGateways ? 1 : null) : retryAfter,
      ...(isGateways
        ? { code: "rate_limited", error: "Too many requests at once. Try again in a moment." }
        : said),
    });
  }
  if (answer.status === 204) return null;
  return as === "blob" ? answer.blob() : answer.json();
}

/** No answer came; a browser's own words for it are for programmers. */
export const unreachable = (
  /** @type {{name?: string, message?: string} | undefined} */ why = undefined,
) =>
  new ApiError({
    status: 0,
    code: "unreachable",
    error: /Timeout/.test(`${why?.name} ${why?.message}`)
      ? "The server did not answer in time"
      : "The server cannot be reached",
  });

async function errorBody(/** @type {Response} */ answer) {
  try {
    return await answer.json();
  } catch {
    return {}; // a gateway's own page: the status says enough
  }
}

/** The rows of a supabase-js query, or an error like the API's. */
export async function unwrap(/** @type {any} */ query) {
  const { data: rows, error, status } = await query;
  if (error && !status && !error.message.includes("AbortError")) throw unreachable(error);
  if (error)
    throw new ApiError({
      status,
      code: error.hint || error.code,
      error: error.message,
      detail: error.details,
    });
  return rows;
}

/**
 * What one of the functions of the Data API answers, under the signed-in person's rights.
 *
 * @param {string} name
 * @param {Record<string, unknown>} [values]
 * @param {AbortSignal} [signal]
 */
export const rpc = (name, values = {}, signal = undefined) => {
  const query = data().rpc(name, values);
  return unwrap(signal ? query.abortSignal(signal) : query);
};

// The API's routes -----------------------------------------------------------------------------

/**
 * What a call of a route takes beside its places.
 *
 * @template {{query: any, body: any, answer: any}} R A line of a `routes.d.ts`.
 * @typedef {{query?: R["query"], body?: R["body"], form?: FormData, headers?: Record<string, string>,
 *   signal?: AbortSignal}} CallOptions
 */
/**
 * Calls a route of an OpenAPI document, by its method and template; `places` fills the names in braces.
 *
 * @template {{[R in keyof All]: {query: any, body: any, answer: any}}} All The routes, of a `routes.d.ts`.
 * @typedef {<R extends keyof All & string>(
 *   route: R,
 *   options?: {places?: Record<Places<R>, string>} & CallOptions<All[R]>,
 * ) => Promise<All[R]["answer"]>} Call
 */

/** @type {Call<any>} Apps give it the type of their own routes. */
export const callRoute = (route, { places, ...options } = {}) =>
  request(...filled(route, places), options);

/** A route's method and path; the path names what `places` has for each name in braces. */
export function filled(
  /** @type {string} */ route,
  /** @type {Record<string, string>} */ places = {},
) {
  const [method, template] = route.split(" ");
  const path = template.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(places[name]));
  return /** @type {const} */ ([method, path]);
}

/**
 * A route of the engine as a function: of what fills its braces, in their order, then of the rest.
 *
 * @template {keyof Routes & string} R
 * @param {R} name
 * @returns {(...given: Given<R, CallOptions<Routes[R]>>) => Promise<Routes[R]["answer"]>}
 */
export const route =
  (name) =>
  (/** @type {any[]} */ ...given) => {
    const names = name.match(/(?<=\{)\w+/g) ?? [];
    const places = Object.fromEntries(names.map((place, at) => [place, given[at]]));
    return callRoute(name, { places, ...given[names.length] });
  };

/**
 * A body that is acted on once, however often it is sent.
 *
 * @template T
 * @param {T} body
 */
export const once = (body) => ({ body, headers: { "Idempotency-Key": crypto.randomUUID() } });

/** What a line of a list shows of a job: neither its payload nor its result, each up to 256 kB. */
const LISTED =
  `id,workspace_id,session_id,parent_id,queue,job_type,status,progress,error_message,attempts,
  max_attempts,next_retry_at,scheduled_for,started_at,finished_at,run_ms,created_at,tags,
  cancel_requested_at,generation,last_seq`.replace(/\s/g, "");

export const jobs = {
  list: route("GET /api/jobs"),
  /** Rows by id without a glimpse, in no promised order; deleted ones are omitted. */
  byIds: (/** @type {string[]} */ ids) =>
    /** @type {Promise<ListedJob[]>} */ (unwrap(data().from("jobs").select(LISTED).in("id", ids))),
  MOST_OF_LEVEL: 200,
  /** The jobs below a job, a level at a time: at most `MOST_OF_LEVEL` of each, four levels. */
  async descendants(/** @type {string} */ id, /** @type {AbortSignal} */ signal) {
    /** @type {ListedJob[]} */
    const found = [];
    /** @type {string | null | undefined} */
    let cursor;
    do {
      /** @type {Routes["GET /api/jobs"]["query"]} */
      const query = { parent_id: id, limit: jobs.MOST_OF_LEVEL, cursor };
      /** @type {Routes["GET /api/jobs"]["answer"]} */
      const page = await jobs.list({ query, signal });
      found.unshift(...page.jobs.reverse());
      cursor = page.next_cursor;
    } while (cursor && found.length < jobs.MOST_OF_LEVEL);
    let parents = found.map((child) => child.id);
    for (let level = 1; parents.length > 0 && level < 4; level += 1) {
      const children = await unwrap(
        data()
          .from("jobs")
          .select(LISTED)
          .in("parent_id", parents)
          .order("created_at")
          .order("id")
          .limit(jobs.MOST_OF_LEVEL)
          .abortSignal(signal),
      );
      found.push(...children);
      parents = children.map((/** @type {ListedJob} */ child) => child.id);
    }
    return found;
  },
  explain: route("GET /api/jobs/{job_id}/explain"),
  attempts: /** @type {(id: string, options: {signal: AbortSignal}) => Promise<Attempt[]>} */ (
    route("GET /api/jobs/{job_id}/attempts")
  ),
  steps: route("GET /api/jobs/{job_id}/steps"),
  /** @type {(id: string, signal: AbortSignal) => Promise<JobTrace>} */
  trace: (id, signal) => rpc("job_trace", { p_job_id: id }, signal),
  prompt: route("GET /api/jobs/{job_id}/prompt"),
  create: route("POST /api/jobs"),
  cancel: route("POST /api/jobs/{job_id}/cancel"),
  retry: route("POST /api/jobs/{job_id}/retry"),
  edit: route("PATCH /api/jobs/{job_id}"),
  replay: route("POST /api/jobs/{job_id}/replay"),
  /** @type {(id: string, signal: AbortSignal) => Promise<Replay[]>} */
  replays: (id, signal) => rpc("job_replays", { p_job_id: id }, signal),
  answer: route("POST /api/jobs/{job_id}/answer"),
  /** How many jobs of a workspace are in each state; statuses in `at_least` may have more. */
  counts(/** @type {string} */ workspaceId, filter = {}) {
    const given = Object.fromEntries(Object.entries(filter).filter(([, value]) => value));
    return rpc("count_jobs", { p_workspace_id: workspaceId, p_filter: given });
  },
};

/** One action on a batch of the jobs that match; to be repeated while `more`. */
export const bulk = {
  cancel: route("POST /api/jobs/cancel"),
  retry: route("POST /api/jobs/retry"),
};

export const types = {
  /** Job types by name with who serves them and how the last day went: `{now, types}`. */
  list: (
    /** @type {string | null} */ workspaceId,
    /** @type {AbortSignal} */ signal,
    isInternal = false,
  ) => rpc("list_job_types", { p_workspace_id: workspaceId, p_internal: isInternal }, signal),
  /** One with its schema, limits, workers and schedules. */
  get: (
    /** @type {string | null} */ workspaceId,
    /** @type {string} */ name,
    /** @type {AbortSignal} */ signal,
  ) => rpc("get_job_type", { p_job_type: name, p_workspace_id: workspaceId }, signal),
};

const known = new Map();

/**
 * Mail addresses by user id, as far as the reader may know them: `{id: address}`; read once each.
 *
 * @param {string[]} ids
 * @returns {Promise<Record<string, string>>}
 */
export async function people(ids) {
  const missing = [...new Set(ids)].filter((id) => id && !known.has(id));
  if (missing.length > 0) {
    const found = await rpc("people", { p_ids: missing });
    for (const id of missing) known.set(id, found[id] ?? null);
  }
  return Object.fromEntries(ids.filter((id) => known.get(id)).map((id) => [id, known.get(id)]));
}
