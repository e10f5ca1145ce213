// What followers read from the Data API, under the user's own token and row level security.

const EVENT_COLUMNS = "job_id,seq,type,data,created_at";
const READ_TIMEOUT_MS = 10_000;
export const PAGE = 500;

/** A read that failed; `reachable` tells a refusal from a server or network that is away. */
export class ReadError extends Error {
  constructor(message, status) {
    super(message);
    this.name = "ReadError";
    this.status = status ?? 0;
  }

  get reachable() {
    return this.status >= 400 && this.status < 500;
  }
}

async function rows(query) {
  // no retries of its own: the follower repeats, and says meanwhile that it is not up to date
  const { data, error, status } = await query.retry(false).abortSignal(AbortSignal.timeout(READ_TIMEOUT_MS));
  if (error) throw new ReadError(error.message || "the Data API did not answer", status);
  return data;
}

const isVisit = (sessionId) => sessionId?.startsWith("visit_");

/**
 * The reads for a session: a visit's go through its own doors, which need no user, only its id.
 * Its rows have neither payload nor maker, and of log lines only the number is told.
 */
export function readsOfSession(client, sessionId) {
  if (!isVisit(sessionId)) return readsOf(client);
  const call = (door, more) => rows(client.rpc(door, { p_session_id: sessionId, ...more }));
  const jobs = async () => (await call("visit_jobs")).jobs;
  return {
    sessionJobs: jobs,
    job: async (id) => (await jobs()).find((row) => row.id === id) ?? null,
    events: async (id, seq, limit = PAGE) =>
      (await call("visit_events", { p_job_id: id, p_after: seq, p_limit: limit })).events,
  };
}

/** The reads over a supabase-js client. */
export function readsOf(client) {
  return {
    /** The job's row, or null when it is missing or another's. */
    async job(id) {
      const found = await rows(client.from("jobs").select("*").eq("id", id).limit(1));
      return found[0] ?? null;
    },

    /** Up to a page of events of a job after `seq`, in order. */
    events(id, seq, limit = PAGE) {
      return rows(
        client.from("job_events").select(EVENT_COLUMNS).eq("job_id", id).gt("seq", seq)
          .order("seq", { ascending: true }).limit(limit),
      );
    },

    /** The jobs of a session, newest first. */
    sessionJobs(sessionId, limit = 200) {
      return rows(
        client.from("jobs").select("*").eq("session_id", sessionId)
          .order("created_at", { ascending: false }).limit(limit),
      );
    },

    /** State changes of a workspace after a cursor; without one, the cursor of now. */
    feed(workspaceId, cursor, limit = PAGE) {
      return rows(client.rpc("event_feed", { p_workspace_id: workspaceId, p_cursor: cursor, p_limit: limit }));
    },
  };
}
