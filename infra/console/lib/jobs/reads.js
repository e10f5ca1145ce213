// What followers read from the Data API, under the user's own token and row level security.

/** @import { Client, FeedPage, Job, JobEventRow, JobLog, SessionJob } from "./types.js" */

const EVENT_COLUMNS = "job_id,seq,type,data,created_at";
const READ_TIMEOUT_MS = 10_000;
/** Where `minutehand install` puts what clients see, by default. */
const INSTALLED = "minutehand";
export const PAGE = 500;
const MOST_JOBS = 200;

/** @type {WeakMap<Client, string>} */
const schemas = new WeakMap();

/**
 * Say once in which schema a client's jobs are; an option `schema` of a call goes before it.
 *
 * @param {Client} client
 * @param {string} schema The one chosen at the install, `minutehand` where nothing was said.
 */
export function setSchema(client, schema) {
  schemas.set(client, schema);
}

/**
 * Our tables and functions, over a supabase-js client.
 *
 * @param {Client} client
 * @param {string} [schema]
 */
export const within = (client, schema) => client.schema(schema ?? schemas.get(client) ?? INSTALLED);

/** A call that failed: refused by the queue, or not answered. */
export class QueueError extends Error {
  /**
   * @param {{message?: string, code?: string, hint?: string | null, details?: string | null}} error
   * @param {number} [status]
   */
  constructor({ message, code = "", hint, details }, status) {
    super(message || "the Data API did not answer");
    this.name = "QueueError";
    /** The stable word of a refusal, e.g. `payload_invalid`; else the Data API's own code. */
    this.code = (code.startsWith("PT") ? hint : null) || code;
    /** The HTTP status; 0 without an answer. */
    this.status = status ?? 0;
    this.details = details ?? null;
  }

  /** Whether a server answered and refused: repeating the call does not help. */
  get reachable() {
    return this.status >= 400 && this.status < 500;
  }
}

/**
 * What a supabase-js query gives, or a `QueueError`.
 *
 * @template T
 * @param {PromiseLike<{data: T, error: any, status: number}>} query
 * @returns {Promise<T>}
 */
export async function unwrap(query) {
  const { data, error, status } = await query;
  if (error) throw new QueueError(error, status);
  return data;
}

/** @param {any} query A query of any of supabase-js's types. */
function rows(query) {
  // no retries of its own: the follower repeats, and says meanwhile that it is not up to date
  const once = query.retry ? query.retry(false) : query;
  return unwrap(once.abortSignal(AbortSignal.timeout(READ_TIMEOUT_MS)));
}

/**
 * What one of our functions answers.
 *
 * @param {Client} client
 * @param {string | undefined} schema
 * @param {string} name
 * @param {object} values
 * @returns {Promise<any>}
 */
export const call = (client, schema, name, values) =>
  rows(within(client, schema).rpc(name, values));

/**
 * @typedef {object} Reads
 * @property {(id: string) => Promise<Job | null>} job The row; null when missing or another's.
 * @property {(id: string, seq: number) => Promise<JobEventRow[]>} events Up to a
 *   page of events of a job after `seq`, in order.
 * @property {(sessionId: string) => Promise<SessionJob[]>} sessionJobs Newest first.
 */

/** @param {string} [sessionId] */
const isGuestSession = (sessionId) => sessionId?.startsWith("guest_");

/**
 * The reads for a session: a guest session's go through its own functions, which need no user, only its
 * id. Its rows have neither payload nor maker, and of log lines only the number.
 *
 * @param {Client} client
 * @param {string} [sessionId]
 * @param {string} [schema]
 * @returns {Reads}
 */
export function readsOfSession(client, sessionId, schema) {
  if (!isGuestSession(sessionId)) return readsOf(client, schema);
  /** @type {(name: string, more?: object) => Promise<any>} */
  const ask = (name, more) => call(client, schema, name, { p_session_id: sessionId, ...more });
  const jobs = async () => (await ask("guest_session_jobs")).jobs;
  return {
    sessionJobs: jobs,
    job: async (id) => (await jobs()).find((/** @type {Job} */ row) => row.id === id) ?? null,
    events: async (id, seq) =>
      (await ask("guest_session_events", { p_job_id: id, p_after: seq, p_limit: PAGE })).events,
  };
}

/**
 * The reads over a supabase-js client.
 *
 * @param {Client} client
 * @param {string} [schema]
 */
export function readsOf(client, schema) {
  /** @param {string} table */
  const from = (table) => within(client, schema).from(table);
  return {
    /** @type {Reads["job"]} */
    async job(id) {
      const found = await rows(from("jobs").select("*").eq("id", id).limit(1));
      return found[0] ?? null;
    },

    /** @type {Reads["events"]} */
    events(id, seq) {
      return rows(
        from("job_events")
          .select(EVENT_COLUMNS)
          .eq("job_id", id)
          .gt("seq", seq)
          .order("seq", { ascending: true })
          .limit(PAGE),
      );
    },

    /** @type {Reads["sessionJobs"]} */
    sessionJobs(sessionId) {
      return rows(
        from("jobs")
          .select("*")
          .eq("session_id", sessionId)
          .order("created_at", { ascending: false })
          .limit(MOST_JOBS),
      );
    },

    /**
     * State changes of a workspace after a cursor; without one, the cursor of now.
     *
     * @param {string} workspaceId
     * @param {string | null} cursor
     * @returns {Promise<FeedPage>}
     */
    feed(workspaceId, cursor) {
      const page = { p_workspace_id: workspaceId, p_cursor: cursor, p_limit: PAGE };
      return call(client, schema, "event_feed", page);
    },
  };
}
