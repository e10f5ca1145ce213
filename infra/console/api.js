// Everything the console asks of the outside: supabase-js for reads and Auth, fetch for the API.
// The browser's key reads under row level security; writes go through the API.

import { setSchema } from "./lib/jobs.js";
import { ALL } from "./lib/scope.js";
import { createStore } from "./lib/store.js";

/** @import { AlertBody, JobTrace, Places, Routes } from "./lib/routes.js" */
/** @import { Attempt, DeadLetterGroup, Job, QueueStats } from "./lib/jobs/types.js" */
/** @import { Action } from "./parts/actions.js" */
/** @typedef {Routes["POST /api/jobs/cancel"]["body"]["filter"]} BulkFilter */
/** @typedef {Routes["POST /api/jobs/cancel"]["body"]["cursor"]} BulkCursor */

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

/** @typedef {{id: string, name: string, role: "manager" | "member" | "operator", expiresAt: string | null}} Workspace */
/** @typedef {{id: string, email: string}} User */
/** @typedef {{workspace_id: string, name: string, expires_at: string}} Opened A workspace opened for a person on call. */
/**
 * @typedef {{status: "starting" | "out" | "in" | "failed", user: User | null, workspaces: Workspace[],
 *   workspace: Workspace | null, isOperator: boolean, reason: string | null, isNew: boolean, error?: any}} Session `reason`
 *   says why someone was signed out who did not ask for it; `isNew`: came by a link that Auth mailed, and has no
 *   password yet.
 */

export const session = createStore(
  /** @type {Session} */ ({
    status: "starting",
    user: null,
    workspaces: [],
    workspace: null,
    isOperator: false,
    reason: null,
    isNew: false,
  }),
);

/** The signed-in supabase-js client. */
export const supabase = () => client;
/** The address of something the API serves, for a link or a frame. */
export const apiAddress = (/** @type {string} */ path) => new URL(path, apiOrigin).href;

/** The schema's tables and functions, over that client. */
export const data = () => client.schema(schema);
/**
 * @typedef {{supabaseUrl: string, supabaseKey: string, schema?: string, stage?: string, breakToken?: string | null,
 *   demoAccounts?: Array<{email: string, password: string, label: string}>}} Settings The accounts and the token are
 *   of a developer's machine.
 */
/**
 * What `/config.json` said.
 *
 * @returns {Settings}
 */
export const settings = () => config;

// Start and sign-in ---------------------------------------------------------------------------

/** Read the configuration, make the client, take up a kept session; a guest's page has none. */
export async function start({ visiting = false } = {}) {
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
  hadSession = !visiting && localStorage.getItem(SESSION_KEY) !== null;
  client = globalThis.supabase.createClient(config.supabaseUrl, config.supabaseKey, {
    db: { schema },
    auth: visiting
      ? { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false }
      : { storageKey: SESSION_KEY, detectSessionInUrl: false },
    realtime: { heartbeatIntervalMs: 15_000 },
  });
  setSchema(client, schema);
  if (visiting) return;
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
  session.set({
    status: "out",
    user: null,
    workspaces: [],
    workspace: null,
    isOperator: false,
    reason,
    isNew: false,
  });
}

async function signedIn(/** @type {{id: string, email?: string}} */ user) {
  if (session.get().user?.id === user.id) return;
  session.set({ ...session.get(), user: { id: user.id, email: user.email ?? "" } });
  try {
    let { workspaces, isOperator } = await readWorkspaces(user.id);
    if (workspaces.length === 0 && (await acceptInvitations()))
      ({ workspaces, isOperator } = await readWorkspaces(user.id));
    const kept = localStorage.getItem("minutehand.workspace");
    const workspace = workspaces.find((one) => one.id === kept) ?? workspaces[0] ?? null;
    if (session.get().user?.id !== user.id) return; // signed out meanwhile
    hadSession = false;
    session.set({
      status: "in",
      user: { id: user.id, email: user.email ?? "" },
      workspaces,
      workspace,
      isOperator,
      reason: null,
      isNew: session.get().isNew,
    });
  } catch (error) {
    session.set({
      status: "failed",
      error,
      user: null,
      workspaces: [],
      workspace: null,
      isOperator: false,
      reason: null,
      isNew: false,
    });
  }
}

/**
 * The workspaces a person belongs to; for operators also those they have open, and all of them as one.
 *
 * @param {string} userId
 * @returns {Promise<{workspaces: Workspace[], isOperator: boolean}>}
 */
async function readWorkspaces(userId) {
  const [found, memberships, onCall] = await Promise.all([
    unwrap(data().from("workspaces").select("id,name").order("name")),
    unwrap(data().from("workspace_members").select("workspace_id,role").eq("user_id", userId)),
    unwrap(data().rpc("operator_session")),
  ]);
  const roles = new Map(
    memberships.map((/** @type {{workspace_id: string, role: string}} */ one) => [
      one.workspace_id,
      one.role,
    ]),
  );
  const opened = new Map(onCall.opened.map((/** @type {Opened} */ one) => [one.workspace_id, one]));
  const known = new Map(
    found.map((/** @type {{id: string, name: string}} */ one) => [one.id, one.name]),
  );
  for (const { workspace_id: id, name } of onCall.opened)
    known.set(id, known.get(id) ?? name ?? id);
  const workspaces = [...known].map(([id, name]) => ({
    id,
    name,
    role: roles.get(id) ?? (opened.has(id) ? "operator" : "member"),
    expiresAt: roles.has(id) ? null : (opened.get(id)?.expires_at ?? null),
  }));
  if (onCall.operator)
    workspaces.push({ id: ALL, name: "All workspaces", role: "operator", expiresAt: null });
  return { workspaces, isOperator: onCall.operator };
}

/** Read them again, after an operator has opened or closed one, and look at `id` from now on. */
export async function refreshWorkspaces(/** @type {string} */ id) {
  const now = session.get();
  if (!now.user) return;
  const { workspaces, isOperator } = await readWorkspaces(now.user.id);
  const workspace =
    workspaces.find((one) => one.id === (id ?? now.workspace?.id)) ?? workspaces[0] ?? null;
  session.set({ ...session.get(), workspaces, workspace, isOperator });
}

/** Join what the person was invited to; Auth does so itself where the project allows a trigger there. */
async function acceptInvitations() {
  const { data: accepted, error, status } = await data().rpc("accept_invitations");
  if (error && status !== 404)
    throw new ApiError({ status, code: error.hint || error.code, error: error.message });
  return (accepted?.joined ?? []).length > 0; // 404: the tenants are the application's own
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
 * Call the API as the signed-in user, or as the holder of a guest session. A token that was refused is
 * renewed once.
 *
 * @param {string} method
 * @param {string} path Below the origin, as `/api/jobs`.
 * @param {{body?: object, form?: FormData, query?: object, headers?: object, signal?: AbortSignal,
 *   as?: "json" | "blob", token?: string, guestSession?: string}} [options]
 */
export async function request(
  method,
  path,
  { body, form, query, headers, signal, as = "json", token: given, guestSession } = {},
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
          ...(guestSession
            ? { "X-Session-Id": guestSession }
            : { Authorization: `Bearer ${bearer}` }),
          ...headers,
        },
        body: form ?? (body && JSON.stringify(body)),
        signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      const why =
        error.name === "TimeoutError"
          ? "The server did not answer in time"
          : "The server cannot be reached";
      throw new ApiError({ status: 0, code: "unreachable", error: why });
    }
  };
  let answer = await send(given ?? (guestSession ? null : await token()));
  if (answer.status === 401 && !given && !guestSession)
    answer = await send(await token({ fresh: true }));
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
  if (error)
    throw new ApiError({
      status,
      code: error.hint || error.code,
      error: error.message,
      detail: error.details,
    });
  return rows;
}

// Jobs ----------------------------------------------------------------------------------------

/**
 * Calls a route of an OpenAPI document, by its method and template; `places` fills the names in braces.
 *
 * @template {{[R in keyof All]: {query: any, body: any, answer: any}}} All The routes, of a `routes.d.ts`.
 * @typedef {<R extends keyof All & string>(
 *   route: R,
 *   options?: {places?: Record<Places<R>, string>, query?: All[R]["query"], body?: All[R]["body"],
 *     form?: FormData, headers?: Record<string, string>, signal?: AbortSignal, guestSession?: string},
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

/** @type {Call<Routes>} */
const call = callRoute;

export const jobs = {
  /** A page: `{jobs, next_cursor}`. `filter` has workspace_id, status, job_type, queue, search … */
  list: (
    /** @type {Routes["GET /api/jobs"]["query"]} */ filter,
    /** @type {AbortSignal} */ signal,
  ) => call("GET /api/jobs", { query: filter, signal }),
  /** Rows by id, in no promised order; deleted ones are omitted. */
  byIds: (/** @type {string[]} */ ids) =>
    /** @type {Promise<Job[]>} */ (unwrap(data().from("jobs").select("*").in("id", ids))),
  MOST_OF_LEVEL: 200,
  /** The jobs below a job, a level at a time: at most `MOST_OF_LEVEL` of each, four levels. */
  async descendants(/** @type {string} */ id, /** @type {AbortSignal} */ signal) {
    /** @type {Job[]} */
    const found = [];
    for (let parents = [id], level = 0; parents.length > 0 && level < 4; level += 1) {
      const children = await unwrap(
        data()
          .from("jobs")
          .select("*")
          .in("parent_id", parents)
          .order("created_at")
          .order("id")
          .limit(jobs.MOST_OF_LEVEL)
          .abortSignal(signal),
      );
      found.push(...children);
      parents = children.map((/** @type {Job} */ child) => child.id);
    }
    return found;
  },
  explain: (/** @type {string} */ id, /** @type {AbortSignal} */ signal) =>
    call("GET /api/jobs/{job_id}/explain", { places: { job_id: id }, signal }),
  attempts: (/** @type {string} */ id, /** @type {AbortSignal} */ signal) =>
    /** @type {Promise<Attempt[]>} */ (
      call("GET /api/jobs/{job_id}/attempts", { places: { job_id: id }, signal })
    ),
  /** A page of finished steps after a place of `next`: `{steps, next, waiting_for}`. */
  steps: (
    /** @type {string} */ id,
    /** @type {import("./lib/jobs/types.js").StepPlace | null} */ after,
    /** @type {AbortSignal} */ signal,
  ) =>
    call("GET /api/jobs/{job_id}/steps", {
      places: { job_id: id },
      query: after ? { after_name: after.name, after_nth: after.nth } : {},
      signal,
    }),
  /** Attempts, steps and waits with their spans, and those of its children: `{now, more, jobs}`. */
  trace: (/** @type {string} */ id, /** @type {AbortSignal} */ signal) =>
    /** @type {Promise<JobTrace>} */ (
      unwrap(data().rpc("job_trace", { p_job_id: id }).abortSignal(signal))
    ),
  /**
   * Who cancelled, retried, answered or opened it, the latest first.
   *
   * @type {(id: string, signal: AbortSignal) => Promise<Action[]>}
   */
  actions: async (id, signal) =>
    (await unwrap(data().rpc("list_actions", { p_job_id: id }).abortSignal(signal))).actions,
  create: (/** @type {Routes["POST /api/jobs"]["body"]} */ job) =>
    call("POST /api/jobs", { body: job }),
  cancel: (/** @type {string} */ id) =>
    call("POST /api/jobs/{job_id}/cancel", { places: { job_id: id } }),
  retry: (/** @type {string} */ id) =>
    call("POST /api/jobs/{job_id}/retry", { places: { job_id: id } }),
  answer: (/** @type {string} */ id, /** @type {unknown} */ answer) =>
    call("POST /api/jobs/{job_id}/answer", { places: { job_id: id }, body: { answer } }),
  cancelMany: (
    /** @type {string} */ workspaceId,
    /** @type {BulkFilter} */ filter,
    /** @type {BulkCursor} */ cursor = null,
  ) => call("POST /api/jobs/cancel", { body: { workspace_id: workspaceId, filter, cursor } }),
  redriveMany: (
    /** @type {string} */ workspaceId,
    /** @type {BulkFilter} */ filter,
    /** @type {BulkCursor} */ cursor = null,
  ) => call("POST /api/jobs/redrive", { body: { workspace_id: workspaceId, filter, cursor } }),

  /** How many jobs of a workspace are in each state: `{states: {[state]: n}, at_least}`; statuses in `at_least` may have more. */
  async counts(/** @type {string} */ workspaceId, filter = {}) {
    const given = Object.fromEntries(Object.entries(filter).filter(([, value]) => value));
    const { states, at_least } = await unwrap(
      data().rpc("count_jobs", { p_workspace_id: workspaceId, p_filter: given }),
    );
    return { states, at_least };
  },
};

// Types ---------------------------------------------------------------------------------------

export const types = {
  /** Job types by name with who serves them and how the last day went: `{now, types}`. */
  list: (
    /** @type {string | null} */ workspaceId,
    /** @type {AbortSignal} */ signal,
    isInternal = false,
  ) =>
    unwrap(
      data()
        .rpc("list_job_types", { p_workspace_id: workspaceId, p_internal: isInternal })
        .abortSignal(signal),
    ),
  /** One with its schema, limits, workers and schedules. */
  get: (
    /** @type {string | null} */ workspaceId,
    /** @type {string} */ name,
    /** @type {AbortSignal} */ signal,
  ) =>
    unwrap(
      data()
        .rpc("get_job_type", { p_job_type: name, p_workspace_id: workspaceId })
        .abortSignal(signal),
    ),
};

/** @param {string} workspaceId */
const of = (workspaceId) => ({ workspace_id: workspaceId });

// Alerts --------------------------------------------------------------------------------------

export const alerts = {
  list: async (/** @type {string} */ workspaceId, /** @type {AbortSignal} */ signal) =>
    (await call("GET /api/workspaces/{workspace_id}/alerts", { places: of(workspaceId), signal }))
      .alerts,
  put: (
    /** @type {string} */ workspaceId,
    /** @type {AlertBody & {name: string}} */ { name, ...alert },
  ) =>
    call("PUT /api/workspaces/{workspace_id}/alerts/{name}", {
      places: { ...of(workspaceId), name },
      body: alert,
    }),
  remove: (/** @type {string} */ workspaceId, /** @type {string} */ name) =>
    call("DELETE /api/workspaces/{workspace_id}/alerts/{name}", {
      places: { ...of(workspaceId), name },
    }),
  /** Addresses of the workspace's members, in order. */
  async addresses(/** @type {string} */ workspaceId, /** @type {typeof people} */ readPeople) {
    const members = await unwrap(
      data().from("workspace_members").select("user_id").eq("workspace_id", workspaceId),
    );
    return Object.values(
      await readPeople(members.map((/** @type {{user_id: string}} */ member) => member.user_id)),
    ).sort();
  },
};

// People --------------------------------------------------------------------------------------

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
    const found = await unwrap(data().rpc("people", { p_ids: missing }));
    for (const id of missing) known.set(id, found[id] ?? null);
  }
  return Object.fromEntries(
    ids
      .filter((/** @type {string} */ id) => known.get(id))
      .map((/** @type {string} */ id) => [id, known.get(id)]),
  );
}

// Operators -----------------------------------------------------------------------------------

const operatorCall = (
  /** @type {string} */ name,
  /** @type {Record<string, unknown>} */ given,
  /** @type {AbortSignal | undefined} */ signal = undefined,
) => unwrap(signal ? data().rpc(name, given).abortSignal(signal) : data().rpc(name, given));

/** @typedef {DeadLetterGroup & {workspaces: number, workspace_ids: string[]}} FailureGroup Of all workspaces. */
/** @typedef {{job_id: string, job_type: string, workspace_name: string | null, leased_at: string}} HeldJob */
/**
 * @typedef {{worker_id: string, version: string | null, job_types: string[] | null, seen_at: string | null,
 *   state: "busy" | "idle" | "ended" | "silent" | "lost", free_slots: number | null, busy_slots: number, runs: number,
 *   leased: number | null, running: HeldJob[]}} WorkerLine `free_slots` is null once its run is over.
 */

/** What people on call may do beyond their own workspaces; each read and action is recorded. */
export const operator = {
  session: () => operatorCall("operator_session", {}),
  /** A page of all workspaces' jobs: `{jobs, next}`. */
  jobs: (
    /** @type {Record<string, unknown>} */ filter,
    /** @type {string | null} */ cursor,
    /** @type {AbortSignal} */ signal,
  ) =>
    operatorCall(
      "operator_jobs",
      { p_filter: filter, p_cursor: cursor ?? null, p_limit: 100 },
      signal,
    ),
  counts: (/** @type {AbortSignal} */ signal) => operatorCall("operator_counts", {}, signal),
  failures: (/** @type {AbortSignal} */ signal) =>
    /** @type {Promise<{groups: FailureGroup[], more: boolean}>} */ (
      operatorCall("operator_failures", {}, signal)
    ),
  workers: (/** @type {number} */ minutes, /** @type {AbortSignal} */ signal) =>
    /** @type {Promise<{now: string, workers: WorkerLine[]}>} */ (
      operatorCall("operator_workers", { p_minutes: minutes }, signal)
    ),
  workspaces: (/** @type {string} */ search, /** @type {AbortSignal} */ signal) =>
    operatorCall("operator_workspaces", { p_search: search || null }, signal),
  /** @type {(before: number | null, signal: AbortSignal) => Promise<Action[]>} */
  actions: async (before, signal) =>
    (await operatorCall("list_actions", { p_before: before ?? null }, signal)).actions,
  /** @type {(wanted: {workspace_id?: string, job_id?: string, reason?: string | null}) => Promise<Opened>} */
  open: (wanted) => operatorCall("operator_open", { p_request: wanted }),
  close: (/** @type {string} */ workspaceId) =>
    operatorCall("operator_close", { p_workspace_id: workspaceId }),
  /** Pause or resume a job type or a queue for everyone. */
  pause: (
    /** @type {string} */ kind,
    /** @type {string} */ name,
    /** @type {boolean} */ paused,
    /** @type {string | null} */ reason = null,
  ) => operatorCall("pause_jobs", { p_request: { kind, name, paused, reason: reason || null } }),
};

// Operations ----------------------------------------------------------------------------------

/**
 * @typedef {{job_type: string, running: number, max_concurrency: number | null, workspace_concurrency: number | null,
 *   key_concurrency: number | null, rate_limit: number | null, rate_per_seconds: number,
 *   paused_at: string | null}} TypeLimits Of a job type over all workspaces.
 */
/**
 * @typedef {{budget_per_second: number, per_second: number, held_last_hour: number, month: number,
 *   month_usd: number}} MessageNumbers What is sent to Realtime, against its budget.
 */
/**
 * @typedef {Omit<QueueStats, "limits"> & {limits: TypeLimits[] | null, messages: MessageNumbers | null}} Stats
 * @typedef {{status: string, checks?: Record<string, {verdict: "pass" | "warn" | "fail", detail?: string}>}} Health
 */

export const operations = {
  /** Counts, percentiles, pauses of a workspace, or of everything without one. */
  stats: (
    /** @type {string | null} */ workspaceId,
    /** @type {number} */ minutes,
    /** @type {AbortSignal} */ signal,
  ) =>
    /** @type {Promise<Stats>} */ (
      unwrap(
        data()
          .rpc("queue_stats", { p_workspace_id: workspaceId, p_minutes: minutes })
          .abortSignal(signal),
      )
    ),
  /** Counts and times over time: `{now, since, step_seconds, live, points}`; of everything without a workspace. */
  series: (
    /** @type {string | null} */ workspaceId,
    /** @type {number} */ minutes,
    /** @type {boolean} */ isInternal,
    /** @type {AbortSignal} */ signal,
  ) =>
    /** @type {Promise<import("./lib/series.js").Series>} */ (
      unwrap(
        data()
          .rpc("queue_series", {
            p_workspace_id: workspaceId,
            p_minutes: minutes,
            p_internal: Boolean(isInternal),
          })
          .abortSignal(signal),
      )
    ),
  /**
   * Readiness; "not ready" is an answer as well.
   *
   * @returns {Promise<Health>}
   */
  async health(/** @type {AbortSignal} */ signal) {
    try {
      const answer = await fetch(new URL("/api/health/ready", apiOrigin), {
        cache: "no-store",
        signal: signal ?? AbortSignal.timeout(TIMEOUT_MS),
      });
      return await answer.json();
    } catch {
      throw new ApiError({ status: 0, code: "unreachable", error: "The server cannot be reached" });
    }
  },
  /** Dead letters by what went wrong: `{groups: [{job_type, error_fingerprint, jobs, last_at, latest_id, …}], more}`. */
  deadLetters: (/** @type {string} */ workspaceId, /** @type {AbortSignal} */ signal) =>
    unwrap(data().rpc("dead_letters", { p_workspace_id: workspaceId }).abortSignal(signal)),
  pause: (
    /** @type {string} */ workspaceId,
    /** @type {boolean} */ paused,
    /** @type {string} */ reason,
  ) =>
    paused
      ? call("POST /api/workspaces/{workspace_id}/pause", {
          places: of(workspaceId),
          body: { reason: reason || null },
        })
      : call("POST /api/workspaces/{workspace_id}/resume", { places: of(workspaceId), body: {} }),
  limits: (/** @type {string} */ workspaceId) =>
    call("GET /api/workspaces/{workspace_id}/limits", { places: of(workspaceId) }),
  setLimits: (
    /** @type {string} */ workspaceId,
    /** @type {Routes["PATCH /api/workspaces/{workspace_id}/limits"]["body"]} */ limits,
  ) =>
    call("PATCH /api/workspaces/{workspace_id}/limits", { places: of(workspaceId), body: limits }),
  members: (/** @type {string} */ workspaceId, /** @type {AbortSignal} */ signal) =>
    call("GET /api/workspaces/{workspace_id}/members", { places: of(workspaceId), signal }),
  setMember: (
    /** @type {string} */ workspaceId,
    /** @type {string} */ email,
    /** @type {"manager" | "member"} */ role,
  ) =>
    call("PUT /api/workspaces/{workspace_id}/members/{email}", {
      places: { ...of(workspaceId), email },
      body: { role },
    }),
  removeMember: (/** @type {string} */ workspaceId, /** @type {string} */ member) =>
    call("DELETE /api/workspaces/{workspace_id}/members/{member}", {
      places: { ...of(workspaceId), member },
    }),
  retention: (/** @type {string} */ workspaceId, /** @type {AbortSignal} */ signal) =>
    call("GET /api/workspaces/{workspace_id}/retention", { places: of(workspaceId), signal }),
  schedules: async (/** @type {string} */ workspaceId) =>
    (await call("GET /api/workspaces/{workspace_id}/schedules", { places: of(workspaceId) }))
      .schedules,
  putSchedule: (/** @type {string} */ workspaceId, /** @type {any} */ { name, ...schedule }) =>
    call("PUT /api/workspaces/{workspace_id}/schedules/{name}", {
      places: { ...of(workspaceId), name },
      body: schedule,
    }),
  deleteSchedule: (/** @type {string} */ workspaceId, /** @type {string} */ name) =>
    call("DELETE /api/workspaces/{workspace_id}/schedules/{name}", {
      places: { ...of(workspaceId), name },
    }),
  /** The next runs of `{schedule: name}` or `{cron, timezone}`. */
  nextRuns: async (
    /** @type {string} */ workspaceId,
    /** @type {Routes["GET /api/workspaces/{workspace_id}/next-runs"]["query"]} */ wanted,
    /** @type {AbortSignal} */ signal,
  ) =>
    (
      await call("GET /api/workspaces/{workspace_id}/next-runs", {
        places: of(workspaceId),
        query: wanted,
        signal,
      })
    ).runs,
  webhooks: async (/** @type {string} */ workspaceId) =>
    (await call("GET /api/workspaces/{workspace_id}/webhooks", { places: of(workspaceId) }))
      .webhooks,
  createWebhook: (
    /** @type {string} */ workspaceId,
    /** @type {Routes["POST /api/workspaces/{workspace_id}/webhooks"]["body"]} */ webhook,
  ) =>
    call("POST /api/workspaces/{workspace_id}/webhooks", {
      places: of(workspaceId),
      body: webhook,
    }),
  changeWebhook: (
    /** @type {string} */ workspaceId,
    /** @type {string} */ id,
    /** @type {Routes["PATCH /api/workspaces/{workspace_id}/webhooks/{webhook_id}"]["body"]} */ changes,
  ) =>
    call("PATCH /api/workspaces/{workspace_id}/webhooks/{webhook_id}", {
      places: { ...of(workspaceId), webhook_id: id },
      body: changes,
    }),
  rotateSecret: (/** @type {string} */ workspaceId, /** @type {string} */ id) =>
    call("POST /api/workspaces/{workspace_id}/webhooks/{webhook_id}/rotate-secret", {
      places: { ...of(workspaceId), webhook_id: id },
    }),
  deleteWebhook: (/** @type {string} */ workspaceId, /** @type {string} */ id) =>
    call("DELETE /api/workspaces/{workspace_id}/webhooks/{webhook_id}", {
      places: { ...of(workspaceId), webhook_id: id },
    }),
  deliveries: async (
    /** @type {string} */ workspaceId,
    /** @type {string} */ id,
    /** @type {AbortSignal} */ signal,
  ) =>
    (
      await call("GET /api/workspaces/{workspace_id}/webhooks/{webhook_id}/deliveries", {
        places: { ...of(workspaceId), webhook_id: id },
        query: { limit: 50 },
        signal,
      })
    ).jobs,
};
