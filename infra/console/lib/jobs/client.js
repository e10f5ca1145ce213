// Calls of the Data API, under the user's own token and row level security.

/** A read that is not answered in this time has failed. */
export const READ_MS = 10_000;
/** Where `minutehand install` puts what clients see, by default. */
const INSTALLED = "minutehand";

const schemas = new WeakMap();

/** Say once in which schema a client's jobs are; an option `schema` of a call goes before it. */
export function setSchema(client, schema) {
  schemas.set(client, schema);
}

/** Our tables and functions, over a supabase-js client. */
export const inSchema = (client, schema) =>
  client.schema(schema ?? schemas.get(client) ?? INSTALLED);

/** A call that failed: refused by the queue, or not answered. */
export class QueueError extends Error {
  constructor({ message, code = "", hint, details }, status) {
    super((status && message) || "The Data API did not answer"); // a browser's words say less
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

  /** Whether the caller may not have it; a function the Data API has not seen yet is no refusal. */
  get isRefusal() {
    const { status, code } = this;
    return status === 401 || status === 403 || (status === 404 && !code.startsWith("PGRST"));
  }

  /** Whether no server of the Data API has answered, as opposed to one that failed. */
  get isAway() {
    return this.status === 0 || (this.status >= 500 && !/^[0-9A-Z]{5}$/.test(this.code));
  }
}

/** Whether an answer holds what was asked for: an empty one, or another's, is none. */
const isThere = (data) => data !== null && data !== undefined;

/** Whether what supabase-js calls a success holds nothing, or only half of what was asked for. */
const isIncomplete = ({ data, error, status }, isWhole = isThere) =>
  status >= 200 && status < 300 && Boolean(error || !isWhole(data));

/** What a supabase-js query gives, or a `QueueError`. */
async function unwrap(query, isWhole = isThere) {
  const answer = await query;
  if (isIncomplete(answer, isWhole)) throw new QueueError({}, 0);
  const { data, error, status } = answer;
  if (error) throw new QueueError(error, status);
  return data;
}

/**
 * What `run(signal)` gives, or the error of `limit` when that comes first: also of what ignores the
 * signal, as supabase-js while it renews a token.
 */
export function withTimeout(run, limit) {
  const over = new Promise((_, reject) =>
    limit.addEventListener("abort", () => reject(limit.reason), { once: true }),
  );
  return Promise.race([run(limit), over]);
}

/**
 * What a read answers that is repeated while too many of its workspace run: soon, then each second,
 * never all pages at once. A server that is busy for all of that time is not away.
 */
async function retryWhileBusy(read, signal, ms = READ_MS, isRefused = isTooMany) {
  const until = Date.now() + 0.8 * ms;
  for (let pause = 100; ; pause = Math.min(2 * pause, 1000)) {
    const answer = await read();
    const isOver = signal?.aborted || Date.now() + 1.5 * pause > until;
    if (isOver || !isRefused(answer)) return answer;
    await new Promise((then) => setTimeout(then, pause * (0.5 + Math.random())));
  }
}

const isTooMany = ({ status }) => status === 429;
const BUSY_MS = 4000; // a job is held for milliseconds
const isBusy = ({ error }) => [error?.hint, error?.code].includes("job_busy");

/** What a write answers that is repeated while another transaction changes its job. */
export const retryWhileLocked = (write, signal) => retryWhileBusy(write, signal, BUSY_MS, isBusy);

/** One answer within its time, and before `signal`. */
export async function readOnce(
  query,
  { ms = READ_MS, run = retryWhileBusy, isWhole, signal } = {},
) {
  // no retries of its own: the follower repeats, and says meanwhile that it is not up to date
  const single = query.retry ? query.retry(false) : query;
  const send = (limit) => run(() => single.abortSignal(limit), limit, ms);
  const over = new AbortController();
  const end = () => over.abort();
  const timer = setTimeout(end, ms);
  signal?.addEventListener("abort", end, { once: true });
  try {
    return await withTimeout((limit) => unwrap(send(limit), isWhole), over.signal);
  } catch (error) {
    throw error instanceof QueueError ? error : new QueueError({}, 0);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", end);
  }
}

/** What one of our functions answers. */
export const call = (client, schema, name, values, options) =>
  readOnce(inSchema(client, schema).rpc(name, values), options);
