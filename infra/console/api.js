// Everything the console asks of the outside: supabase-js for reads and Auth, fetch for the API.
// The browser's key reads under row level security; writes go through the API.

import { setClock } from "./lib/format.js";
import { withTimeout, readOnce, READ_MS, setSchema, retryWhileLocked } from "./lib/jobs/client.js";
import { createStore, isTransient } from "./lib/store.js";

const WRITE_MS = 20_000;
const UNRESPONSIVE_MS = 5000;
const RETRY_MS = 5000;

/** A refusal by the API, with what people and code need to act on it. */
class ApiError extends Error {
  constructor({ status, code, error, detail, request_id: requestId, retryAfter }) {
    super(error || (status >= 500 ? "The server has failed" : "The server refused it"));
    const known = { code: code ?? null, detail: detail ?? null, requestId: requestId ?? null };
    Object.assign(this, { name: "ApiError", status, ...known, retryAfter: retryAfter ?? null });
  }

  /** Whether a server answered and refused: repeating the call does not help. */
  get reachable() {
    return this.status >= 400 && this.status < 500;
  }
}

/** No answer came; a browser's own words for it are for programmers. */
const unreachable = (why = undefined) =>
  new ApiError({
    status: 0,
    code: "unreachable",
    error: /Timeout/.test(`${why?.name} ${why?.message}`)
      ? "The server did not answer in time"
      : "The server cannot be reached",
  });

/** Since when a server has not answered, in ms; null for one that does. */
export const outages = createStore({ data: null, api: null });

/** What a server is asked for, within its time; its silence is known before that is over. */
async function callServer(server, run, signal) {
  const startedAt = Date.now();
  const note = (since) =>
    outages.set((now) => (now[server] === since ? now : { ...now, [server]: since }));
  const markOutage = () => note(outages.get()[server] ?? startedAt);
  const slowTimer = setTimeout(markOutage, UNRESPONSIVE_MS);
  const limit = AbortSignal.timeout(READ_MS);
  try {
    const answer = await withTimeout(run, signal ? AbortSignal.any([signal, limit]) : limit);
    note(null);
    return answer;
  } catch (error) {
    if (signal?.aborted) throw error;
    const failure = error.status === undefined ? unreachable(error) : error;
    if (failure.status === 0) markOutage();
    else note(null);
    throw failure;
  } finally {
    clearTimeout(slowTimer);
  }
}

let client;
let config = null;
let schema = "public"; // where what users see was installed

const SIGNED_OUT = { status: "out", user: null, workspaces: [], workspace: null, reason: null };

export const session = createStore({ ...SIGNED_OUT, status: "starting" });

/** The signed-in supabase-js client. */
export const supabase = () => client;
/** The schema's tables and functions, over that client. */
export const data = () => client.schema(schema);
/** What `/config.json` said. */
export const settings = () => config;

/** Read the configuration, make the client, take up a kept session or that of a mailed link. */
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
  client = globalThis.supabase.createClient(config.supabaseUrl, config.supabaseKey, {
    db: { schema },
    global: { fetch: fetchWithTimeout },
    auth: { storageKey: SESSION_KEY },
    realtime: { heartbeatIntervalMs: 15_000 },
  });
  setSchema(client, schema);
  client.auth.onAuthStateChange((event, found) => {
    // supabase-js holds a lock here: ask nothing of it before it is let go
    if (event === "SIGNED_OUT") setTimeout(signedOut);
    else if (found && found.user.id !== session.get().user?.id)
      setTimeout(() => signedIn(found.user));
    else if (event === "INITIAL_SESSION" && !found) setTimeout(signedOut);
  });
}

/** Auth's own calls have no limit otherwise. */
function fetchWithTimeout(input, init = {}) {
  const limit = AbortSignal.timeout(WRITE_MS);
  const signal = init.signal ? AbortSignal.any([init.signal, limit]) : limit;
  return fetch(input, { ...init, signal });
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

async function signedIn(user) {
  if (session.get().user?.id === user.id) return;
  session.set({ ...session.get(), user: { id: user.id, email: user.email ?? "" } });
  try {
    const isOperator = user.app_metadata?.minutehand_operator === true;
    const workspaces = await readWorkspaces(user.id, isOperator);
    const kept = localStorage.getItem("minutehand.workspace");
    const workspace = workspaces.find((one) => one.id === kept) ?? workspaces[0] ?? null;
    if (session.get().user?.id !== user.id) return; // signed out meanwhile
    session.set({
      status: "in",
      user: { id: user.id, email: user.email ?? "", isOperator },
      workspaces,
      workspace,
      reason: null,
    });
  } catch (error) {
    session.set({ ...SIGNED_OUT, status: "failed", error });
    if (isTransient(error)) setTimeout(() => signedIn(user), RETRY_MS);
  }
}

/** The workspaces a person sees: those they belong to, for staff all. */
async function readWorkspaces(userId, isOperator) {
  const [found, memberships] = await Promise.all([
    unwrap(data().from("workspaces").select("id,name").order("name")),
    unwrap(data().from("workspace_members").select("workspace_id,role").eq("user_id", userId)),
  ]);
  const roles = new Map(memberships.map((one) => [one.workspace_id, one.role]));
  const otherwise = isOperator ? "manager" : "member"; // staff may do what managers may
  return found.map((one) => ({ ...one, role: roles.get(one.id) ?? otherwise }));
}

export async function signIn(email, password) {
  const { error } = await client.auth.signInWithPassword({ email, password });
  if (error)
    throw new ApiError({ status: error.status ?? 0, code: error.code, error: error.message });
}

export async function signOut() {
  isLeaving = true;
  await client.auth.signOut({ scope: "local" });
}

export function chooseWorkspace(id) {
  const now = session.get();
  const workspace = now.workspaces.find((one) => one.id === id);
  if (!workspace) return;
  localStorage.setItem("minutehand.workspace", id);
  session.set({ ...now, workspace });
}

async function token({ fresh = false } = {}) {
  const renew = () => (fresh ? client.auth.refreshSession() : client.auth.getSession());
  const late = ({ message }) => ({ data: {}, error: new Error(message) });
  const { data: found, error } = await withTimeout(renew, AbortSignal.timeout(READ_MS)).catch(late);
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
    await client.auth.signOut({ scope: "local" });
    throw new ApiError({
      status: 401,
      code: "unauthorized",
      error: "Your session has ended. Sign in again.",
    });
  }
  return found.session.access_token;
}

/**
 * Call the API as the signed-in user; a token that was refused is renewed once, and a call whose
 * job another transaction is changing is repeated.
 */
export async function request(method, path, { body, query, headers, signal, as = "json" } = {}) {
  const url = new URL(path, location.origin);
  for (const [name, value] of Object.entries(query ?? {})) {
    for (const one of [value].flat())
      if (one !== null && one !== undefined && one !== "") url.searchParams.append(name, one);
  }
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
  const sent = async () => {
    let answer = await send(await token());
    if (answer.status === 401) answer = await send(await token({ fresh: true }));
    if (answer.ok) return { answer };
    const retryAfter = Number.parseInt(answer.headers.get("Retry-After") ?? "", 10) || null; // s
    const { status } = answer;
    return { error: new ApiError({ status, retryAfter, ...(await errorBody(answer)) }) };
  };
  const { answer, error } = await retryWhileLocked(sent, signal);
  if (error) throw error;
  if (answer.status === 204) return null;
  return as === "blob" ? answer.blob() : answer.json();
}

async function errorBody(answer) {
  try {
    return await answer.json();
  } catch {
    return {}; // a gateway's own page: the status says enough
  }
}

/** The rows of a supabase-js query, or an error like the API's; an empty answer is none. */
export const unwrap = (query, signal = undefined) =>
  callServer("data", (limited) => readOnce(query, { signal: limited }), signal);

/** What one of the functions of the Data API answers, under the signed-in person's rights. */
export async function rpc(name, values = {}, signal = undefined) {
  const answer = await unwrap(data().rpc(name, values), signal);
  if (answer?.now) setClock(answer.now);
  return answer;
}

/** Calls a route by its method and template; `places` fills the names in braces. */
export function callRoute(name, { params = {}, ...options } = {}) {
  const [method, template] = name.split(" ");
  const path = template.replace(/\{(\w+)\}/g, (_, param) => encodeURIComponent(params[param]));
  return request(method, path, options);
}

/** A route as a function: of what fills its braces, in their order, then of the rest. */
export const route =
  (name) =>
  (...given) => {
    const names = name.match(/(?<=\{)\w+/g) ?? [];
    const params = Object.fromEntries(names.map((param, at) => [param, given[at]]));
    return callRoute(name, { params, ...given[names.length] });
  };

/** A body that is acted on once, however often it is sent. */
export const withIdempotencyKey = (body) => ({
  body,
  headers: { "Idempotency-Key": crypto.randomUUID() },
});

/** What is of one workspace. */
export const WORKSPACE_PATH = "/api/workspaces/{workspace_id}";

export const jobs = {
  page: (filter, cursor, limit, signal) =>
    rpc("list_jobs", { p_filter: filter, p_cursor: cursor ?? null, p_limit: limit }, signal),
  /** How many are in each state; those in `at_least` have more. */
  counts: (workspaceId, filter = {}) =>
    rpc("count_jobs", { p_workspace_id: workspaceId, p_filter: filter }),
  /** Failed jobs by what went wrong. */
  failures: (workspaceId, signal) => rpc("dead_letters", { p_workspace_id: workspaceId }, signal),
  attempts: async (id, signal) => (await rpc("job_attempts", { p_job_id: id }, signal)).attempts,
  steps: (id, after, signal) => rpc("job_steps", { p_job_id: id, p_after: after ?? null }, signal),
  trace: (id, signal) => rpc("job_trace", { p_job_id: id }, signal),
  /** Why it is where it is, and what to do. */
  explain: (id, signal) => rpc("explain_job", { p_job_id: id }, signal),
  create: route("POST /api/jobs"),
  cancel: route("POST /api/jobs/{job_id}/cancel"),
  retry: route("POST /api/jobs/{job_id}/retry"),
  replay: route("POST /api/jobs/{job_id}/replay"),
  answer: route("POST /api/jobs/{job_id}/answer"),
  /** A batch of the jobs that match; to be repeated while `more`. */
  cancelAll: route("POST /api/jobs/cancel"),
  retryAll: route("POST /api/jobs/retry"),
};

export const types = {
  /** By name, with who serves them and how the last day went. */
  list: async (workspaceId, signal) =>
    (await rpc("list_job_types", { p_workspace_id: workspaceId, p_internal: true }, signal)).types,
  /** One with its schema, limits, workers and schedules. */
  get: async (workspaceId, name, signal) => {
    const named = { p_job_type: name, p_workspace_id: workspaceId };
    return (await rpc("list_job_types", named, signal)).types[0];
  },
};

export const engine = {
  stats: (workspaceId, minutes, signal) =>
    rpc("queue_stats", { p_workspace_id: workspaceId, p_minutes: minutes }, signal),
  series: (workspaceId, minutes, signal) =>
    rpc("queue_series", { p_workspace_id: workspaceId, p_minutes: minutes }, signal),
  /** What is wrong, and who holds jobs. */
  explain: (workspaceId, signal) => rpc("explain_queue", { p_workspace_id: workspaceId }, signal),
  /** Readiness; "not ready" is an answer as well. */
  health: (signal) =>
    callServer(
      "api",
      async (limited) => {
        const asked = { cache: "no-store", signal: limited };
        return (await fetch("/api/health/ready", asked)).json();
      },
      signal,
    ),
  pause: route(`POST ${WORKSPACE_PATH}/pause`),
  resume: route(`POST ${WORKSPACE_PATH}/resume`),
};
