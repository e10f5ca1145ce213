// Sends the requests of the console. supabase-js signs the user in and reads rows of the database
// under row level security, with the project's public key. Calls that change data go to
// Minutehand's HTTP API.

import { createClient } from "@supabase/supabase-js";
import { setClock } from "./lib/format.js";
import { withTimeout, readOnce, READ_MS, setSchema, retryWhileLocked } from "./lib/jobs/client.js";
import { createStore, isTransient } from "./lib/store.js";

const WRITE_MS = 20_000;
const UNRESPONSIVE_MS = 5000;
const RETRY_MS = 5000;

/** Error response of the HTTP API, with the error's code and request id. */
class ApiError extends Error {
  constructor({ status, code = null, error, request_id: requestId = null, retryAfter = null }) {
    super(error || (status >= 500 ? "The server failed" : "The server rejected the request"));
    Object.assign(this, { name: "ApiError", status, code, requestId, retryAfter });
  }

  /** Is true if the server responded and rejected the call, so that a repetition would fail too. */
  get reachable() {
    return this.status >= 400 && this.status < 500;
  }
}

/**
 * Create an error for a request that got no response. The error's text comes from the console,
 * because browsers' error texts are written for programmers.
 */
const unreachable = (cause, what = "The server") =>
  new ApiError({
    status: 0,
    code: "unreachable",
    error: /Timeout/.test(`${cause?.name} ${cause?.message}`)
      ? `${what} did not respond in time`
      : `${what} cannot be reached`,
  });

/**
 * Start of the current outage of Supabase's Data API, in milliseconds since 1970, or null if the
 * Data API responds.
 */
export const outage = createStore(null);

/**
 * Current problems of the queue, as the SQL function `explain_queue` returned them. `attention` has
 * groups of the workspace's jobs, and is missing before the first read.
 */
export const problems = createStore({ findings: [] });

/**
 * Run a read with a timeout. If the response is slow, record an outage of the Data API even before
 * the timeout.
 */
async function callServer(run, signal) {
  const startedAt = Date.now();
  const markOutage = () => outage.set((since) => since ?? startedAt);
  const slowTimer = setTimeout(markOutage, UNRESPONSIVE_MS);
  const ended = signal ? AbortSignal.any([signal, reads.signal]) : reads.signal;
  try {
    const response = await withTimeout(run, AbortSignal.any([ended, AbortSignal.timeout(READ_MS)]));
    outage.set(null);
    return response;
  } catch (error) {
    if (ended.aborted) throw error;
    const failure = error.status === undefined ? unreachable(error, "Supabase") : error;
    if (failure.isAway ?? failure.status === 0) markOutage();
    else outage.set(null);
    throw failure;
  } finally {
    clearTimeout(slowTimer);
  }
}

let client;
let reads = new AbortController(); // its signal ends the requests to the Data API at a sign-out
let config = null;
let schema = "public"; // database schema of the tables and functions for users

const SIGNED_OUT = { status: "out", user: null, workspaces: [], workspace: null, reason: null };

export const session = createStore({ ...SIGNED_OUT, status: "starting" });

/** Return whether the user may change many jobs of the workspace by one call. */
export function isManager() {
  const { user, workspace } = session.get();
  return user.isOperator || workspace?.role === "manager";
}

/** Return the signed-in supabase-js client. */
export const supabase = () => client;
/** Return a supabase-js client for the database schema with the tables and functions for users. */
export const data = () => client.schema(schema);
/** Return the content of `/config.json`. */
export const settings = () => config;

/**
 * Read the configuration, create the supabase-js client, and restore the stored session of the
 * user. If a link in an e-mail opened the page, open the session of the link instead of the stored
 * session.
 */
export async function start() {
  const answer = await fetch("/config.json", {
    cache: "no-store",
    signal: AbortSignal.timeout(READ_MS),
  });
  if (!answer.ok)
    throw new ApiError({
      status: answer.status,
      error: "The console's configuration could not be read",
    });
  setClock(answer.headers.get("Date"));
  config = await answer.json();
  schema = config.schema ?? "public";
  hadSession = localStorage.getItem(SESSION_KEY) !== null;
  client = createClient(config.supabaseUrl, config.supabaseKey, {
    db: { schema },
    global: { fetch: fetchWithTimeout },
    auth: { storageKey: SESSION_KEY },
    realtime: { heartbeatIntervalMs: 15_000 },
  });
  setSchema(client, schema);
  client.auth.onAuthStateChange((event, authSession) => {
    // supabase-js holds a lock during this callback, so call supabase-js only after the callback
    if (event === "SIGNED_OUT") setTimeout(signedOut);
    else if (authSession && authSession.user.id !== session.get().user?.id)
      setTimeout(() => signedIn(authSession.user));
    else if (event === "INITIAL_SESSION" && !authSession) setTimeout(signedOut);
  });
}

/** Fetch with a timeout, because supabase-js sets no timeout for the calls of Supabase Auth. */
function fetchWithTimeout(input, init = {}) {
  const isRead = new URL(input).pathname.startsWith("/rest/");
  const signals = [AbortSignal.timeout(WRITE_MS), init.signal, isRead && reads.signal];
  return fetch(input, { ...init, signal: AbortSignal.any(signals.filter(Boolean)) });
}

const SESSION_KEY = "minutehand.session";
let isLeaving = false;
let hadSession = false; // true while the browser has a stored session that was not checked yet

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

async function signedIn(user) {
  if (session.get().user?.id === user.id) return;
  if (reads.signal.aborted) reads = new AbortController();
  const isOperator = user.app_metadata?.minutehand_operator === true;
  const person = { id: user.id, email: user.email ?? "", isOperator };
  session.set({ ...session.get(), user: person });
  try {
    const workspaces = await readWorkspaces(user.id, isOperator);
    const storedId = localStorage.getItem("minutehand.workspace");
    const workspace = workspaces.find(({ id }) => id === storedId) ?? workspaces[0] ?? null;
    if (session.get().user?.id !== user.id) return; // the user has signed out in the meantime
    session.set({ status: "in", user: person, workspaces, workspace, reason: null });
  } catch (error) {
    session.set({ ...SIGNED_OUT, status: "failed", error });
    if (isTransient(error)) setTimeout(() => signedIn(user), RETRY_MS);
  }
}

/**
 * Read the workspaces of which the user is a member. If the user is an operator, read all
 * workspaces.
 */
async function readWorkspaces(userId, isOperator) {
  const [workspaces, memberships] = await Promise.all([
    unwrap(data().from("workspaces").select("id,name").order("name")),
    unwrap(data().from("workspace_members").select("workspace_id,role").eq("user_id", userId)),
  ]);
  const defaultRole = isOperator ? "manager" : "member"; // staff have a manager's rights
  return workspaces.map((workspace) => {
    const own = memberships.find(({ workspace_id: id }) => id === workspace.id);
    return { ...workspace, role: own?.role ?? defaultRole };
  });
}

export async function signIn(email, password) {
  const { error } = await client.auth.signInWithPassword({ email, password });
  if (error)
    throw new ApiError({ status: error.status ?? 0, code: error.code, error: error.message });
}

export async function signOut() {
  isLeaving = true;
  reads.abort(); // without the user's token, the Data API would reject them
  const { error } = await client.auth.signOut({ scope: "local" });
  if (error) reads = new AbortController(); // the user is still signed in
}

export function chooseWorkspace(id) {
  const now = session.get();
  const workspace = now.workspaces.find((choice) => choice.id === id);
  if (!workspace) return;
  localStorage.setItem("minutehand.workspace", id);
  session.set({ ...now, workspace });
}

/** Return the user's token. `refreshSession` as `method` renews a token that is not old yet. */
async function token(method = "getSession") {
  const call = withTimeout(() => client.auth[method](), AbortSignal.timeout(READ_MS));
  const { data: renewed, error } = await call.catch((timeout) => ({ data: {}, error: timeout }));
  const isRefused = error?.status >= 400 && error.status < 500;
  if (error && !isRefused) {
    // an outage of Supabase Auth must not sign the user out
    throw new ApiError({
      status: 0,
      code: "unreachable",
      error: "Your session could not be renewed, because the server cannot be reached",
    });
  }
  if (error || !renewed.session) {
    await client.auth.signOut({ scope: "local" });
    throw new ApiError({
      status: 401,
      code: "unauthorized",
      error: "Your session has ended. Sign in again.",
    });
  }
  return renewed.session.access_token;
}

/**
 * Call the HTTP API as the signed-in user. If the API rejects the user's token, renew the token and
 * repeat the call once. Repeat the call while the API rejects it because another transaction
 * changes the same job.
 */
export async function request(
  method,
  path,
  { body, query = {}, headers, signal, as = "json" } = {},
) {
  const url = new URL(path, location.origin);
  for (const [name, value] of Object.entries(query))
    if (value != null) url.searchParams.set(name, value);
  const send = async (bearer) => {
    const timeout = AbortSignal.timeout(WRITE_MS);
    try {
      return await fetch(url, {
        method,
        headers: {
          ...(body && { "Content-Type": "application/json" }),
          Authorization: `Bearer ${bearer}`,
          ...headers,
        },
        body: body && JSON.stringify(body),
        signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw unreachable(error);
    }
  };
  const attempt = async () => {
    let response = await send(await token());
    if (response.status === 401) response = await send(await token("refreshSession"));
    if (response.ok) return { response };
    const retryAfter = Number.parseInt(response.headers.get("Retry-After") ?? "", 10) || null; // s
    const { status } = response;
    // the body may be an HTML page of a gateway, and the status is enough for the error
    const problem = await response.json().catch(() => ({}));
    return { error: new ApiError({ status, retryAfter, ...problem }) };
  };
  const { response, error } = await retryWhileLocked(attempt, signal);
  if (error) throw error;
  if (method !== "GET") shared = { of: null }; // explain the problems that the change has left
  if (response.status === 204) return null;
  return as === "blob" ? response.blob() : response.json();
}

/**
 * Return the data of a supabase-js query. Throw an error of the query in the form of the HTTP API's
 * errors. Throw an error if the response has no data.
 */
export const unwrap = (query, signal = undefined) =>
  callServer((limited) => readOnce(query, { signal: limited }), signal);

/** Call a database function through the Data API, with the rights of the signed-in person. */
export async function rpc(name, values = {}, signal = undefined) {
  const result = await unwrap(data().rpc(name, values), signal);
  if (result?.now) setClock(result.now);
  return result;
}

/**
 * Call a route of the HTTP API. `name` consists of the route's method and path template. `params`
 * contains the values for the names in the path template's braces.
 */
export function callRoute(name, { params = {}, ...options } = {}) {
  const [method, template] = name.split(" ");
  const path = template.replace(/\{(\w+)\}/g, (_, param) => encodeURIComponent(params[param]));
  return request(method, path, options);
}

/**
 * Return a function that calls a route of the HTTP API. The arguments of the returned function are
 * the path parameters in order, and then the options.
 */
export const route =
  (name) =>
  (...values) => {
    const names = name.match(/(?<=\{)\w+/g) ?? [];
    const params = Object.fromEntries(names.map((param, at) => [param, values[at]]));
    return callRoute(name, { params, ...values[names.length] });
  };

/**
 * Return request options with a new idempotency key, so that a repeated request has no further
 * effect.
 */
export const withIdempotencyKey = (body) => ({
  body,
  headers: { "Idempotency-Key": crypto.randomUUID() },
});

/** Common start of the paths of the API's routes for a workspace. */
export const WORKSPACE_PATH = "/api/workspaces/{workspace_id}";

/** Return a function that reads a part of a job by a database function. */
const readOf = (name) => (id, signal) => rpc(name, { p_job_id: id }, signal);

export const jobs = {
  page: (filter, cursor, limit, signal) =>
    rpc("list_jobs", { p_filter: filter, p_cursor: cursor ?? null, p_limit: limit }, signal),
  /**
   * Count jobs by state. In the response, `at_least` lists the states that have more jobs than the
   * returned count.
   */
  counts: (workspaceId, filter = {}) =>
    rpc("count_jobs", { p_workspace_id: workspaceId, p_filter: filter }),
  /** Read the failed jobs, grouped by error. */
  failures: (workspaceId, signal) => rpc("dead_letters", { p_workspace_id: workspaceId }, signal),
  attempts: async (id, signal) => (await rpc("job_attempts", { p_job_id: id }, signal)).attempts,
  steps: readOf("job_steps"),
  trace: readOf("job_trace"),
  /** Explain why a job is in its state, and what the user can do. */
  explain: readOf("explain_job"),
  get: readOf("get_job"),
  create: route("POST /api/jobs"),
  cancel: route("POST /api/jobs/{job_id}/cancel"),
  retry: route("POST /api/jobs/{job_id}/retry"),
  replay: route("POST /api/jobs/{job_id}/replay"),
  answer: route("POST /api/jobs/{job_id}/answer"),
  /**
   * Cancel a batch of the jobs that match a filter. The caller repeats the call while `more` in the
   * response is true.
   */
  cancelAll: route("POST /api/jobs/cancel"),
  retryAll: route("POST /api/jobs/retry"),
};

/** Read job types, each with the time `late` until which the statistics count ended jobs, or null. */
async function readTypes(workspaceId, filter, signal) {
  const values = { p_workspace_id: workspaceId, ...filter };
  const { types: found, late_since: late } = await rpc("list_job_types", values, signal);
  return found.map((type) => ({ ...type, late }));
}

export const types = {
  /**
   * Read the job types in the order of their names, with their workers and their statistics of the
   * last day.
   */
  list: (workspaceId, signal) => readTypes(workspaceId, { p_internal: true }, signal),
  /** Read one job type with its schema, limits, workers and schedules. */
  get: async (workspaceId, name, signal) =>
    (await readTypes(workspaceId, { p_job_type: name }, signal))[0],
};

const SHARED_MS = 3000;
let shared = { of: null };

/**
 * Explain problems of the queue, and list what blocks jobs. The status bar and the page share a
 * response for three seconds, so a call does not end with one of its callers.
 */
function explain(workspaceId) {
  const of = `${session.get().user?.id} ${workspaceId}`;
  if (shared.of !== of || Date.now() - shared.at > SHARED_MS) {
    shared = { of, at: Date.now(), read: rpc("explain_queue", { p_workspace_id: workspaceId }) };
    shared.read.catch(() => (shared = { of: null }));
  }
  return shared.read;
}

const readStatistics = (name) => (workspaceId, minutes, signal) =>
  rpc(name, { p_workspace_id: workspaceId, p_minutes: minutes }, signal);

export const engine = {
  stats: readStatistics("queue_stats"),
  series: readStatistics("queue_series"),
  explain,
  pause: route(`POST ${WORKSPACE_PATH}/pause`),
  resume: route(`POST ${WORKSPACE_PATH}/resume`),
};
