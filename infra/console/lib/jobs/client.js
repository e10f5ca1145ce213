// Calls of Supabase's Data API with the user's token. The database applies row level security to
// each call of this module.

/** Time in milliseconds after which a read without a response fails. */
export const READ_MS = 10_000;
/**
 * Default name of the database schema in which `minutehand install` creates the tables and
 * functions for clients.
 */
const DEFAULT_SCHEMA = "minutehand";

const schemas = new WeakMap();

/**
 * Set the database schema that the calls of a client use. The option `schema` of a call overrides
 * the schema of the client.
 */
export function setSchema(client, schema) {
  schemas.set(client, schema);
}

/** Return a supabase-js client that uses the schema with Minutehand's tables and functions. */
export const inSchema = (client, schema) =>
  client.schema(schema ?? schemas.get(client) ?? DEFAULT_SCHEMA);

const WHOLE_MESSAGE = /^(.*) \((\w+)\)(?: \[(.*)\])?$/s;

/**
 * Complete an error of the Data API. If the Data API returns only the code and the message of an
 * error, extract the hint and the details from the message.
 */
function completeError(error) {
  const match =
    error.code?.startsWith("PT") && !error.hint ? WHOLE_MESSAGE.exec(error.message) : null;
  if (match === null) return error;
  const [, message, hint, details] = match;
  return { code: error.code, message, hint, details };
}

/** Error of a call of a queue function that was rejected or got no response. */
export class QueueError extends Error {
  constructor(error, status) {
    const { message, code = "", hint, details } = completeError(error);
    super((status && message) || "The Data API did not respond"); // a browser's text is less clear
    this.name = "QueueError";
    /**
     * Stable error code, for example `lease_lost` or `payload_invalid`. For an error that did not
     * come from the queue's functions, `code` is the Data API's error code.
     */
    this.code = (code.startsWith("PT") ? hint : null) || code;
    /** HTTP status, or 0 if there was no response. */
    this.status = status ?? 0;
    this.details = details ?? null;
  }

  /** Is true if the server responded and rejected the call, so that a repetition would fail too. */
  get reachable() {
    return this.status >= 400 && this.status < 500;
  }

  /**
   * Is true if the caller may not access the job or the workspace. `isRefusal` is false if a
   * function is missing in the database, or not known to the Data API yet.
   */
  get isRefusal() {
    const { status, code } = this;
    return status === 401 || status === 403 || (status === 404 && !/^(PGRST|42)/.test(code));
  }

  /**
   * Is true if no Data API server responded. `isAway` is false if a server responded with an error.
   */
  get isAway() {
    return this.status === 0 || (this.status >= 500 && !/^[0-9A-Z]{5}$/.test(this.code));
  }
}

const hasData = (data) => data !== null && data !== undefined;

/** Return the data of a supabase-js query, or throw a `QueueError`. */
async function unwrap(query, isWhole = hasData) {
  const { data, error, status } = await query;
  const isSuccess = status >= 200 && status < 300;
  // supabase-js reports success even if the response is empty or truncated
  if (isSuccess && (error || !isWhole(data))) throw new QueueError({}, 0);
  if (error) throw new QueueError(error, status);
  return data;
}

/**
 * Return the result of `run(signal)`, or throw the abort reason of `limit` if `limit` aborts first.
 * `withTimeout` ends at the abort even if `run` ignores its signal, as supabase-js does while it
 * renews a token.
 */
export function withTimeout(run, limit) {
  return new Promise((resolve, reject) => {
    const abort = () => reject(limit.reason);
    limit.addEventListener("abort", abort);
    Promise.resolve(run(limit))
      .then(resolve, reject)
      .finally(() => limit.removeEventListener("abort", abort));
  });
}

/**
 * Repeat a read while the database rejects it because too many reads of the workspace are in
 * flight. The pause between two reads grows up to one second and is random, so that many pages do
 * not read at the same moment. The error of a server that stays busy does not count as an outage.
 */
async function retryWhileBusy(
  read,
  signal,
  ms = READ_MS,
  isRejected = ({ status }) => status === 429,
) {
  const until = Date.now() + 0.8 * ms;
  for (let pause = 100; ; pause = Math.min(2 * pause, 1000)) {
    const response = await read();
    const isOver = signal?.aborted || Date.now() + 1.5 * pause > until;
    if (isOver || !isRejected(response)) return response;
    await new Promise((then) => setTimeout(then, pause * (0.5 + Math.random())));
  }
}

const BUSY_MS = 4000; // another call usually locks a job for milliseconds
// a write can be repeated after a serialization failure, a deadlock or a lock timeout, because the
// database has stored nothing
const LOCKED = ["job_busy", "40001", "40P01", "55P03"];
const isLocked = ({ error }) => {
  if (!error) return false;
  const { code, details } = new QueueError(error);
  return LOCKED.includes(code) || /calls_at_once/.test(details);
};

/**
 * Repeat a write while the database rejects the write, because another call changes the same job or
 * because two other changes of the same person are in flight.
 */
export const retryWhileLocked = (write, signal) => retryWhileBusy(write, signal, BUSY_MS, isLocked);

/**
 * Return the response of a query. Throw a `QueueError` after `ms` milliseconds, or when `signal`
 * aborts.
 */
export async function readOnce(
  query,
  { ms = READ_MS, run = retryWhileBusy, isWhole, signal } = {},
) {
  // switch off the retries of supabase-js, because the class `Follower` repeats reads itself, and
  // reports to the page that the page's data may be old
  const single = query.retry ? query.retry(false) : query;
  const send = (aborted) => run(() => single.abortSignal(aborted), aborted, ms);
  const limit = new AbortController();
  const abort = () => limit.abort();
  const timer = setTimeout(abort, ms);
  signal?.addEventListener("abort", abort, { once: true });
  try {
    return await withTimeout((aborted) => unwrap(send(aborted), isWhole), limit.signal);
  } catch (error) {
    throw error instanceof QueueError ? error : new QueueError({}, 0);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}

/** Call one of Minutehand's database functions and return its result. */
export const call = (client, schema, name, values, options) =>
  readOnce(inSchema(client, schema).rpc(name, values), options);
