// Calls of the Data API, under the user's own token and row level security.

/** A read that is not answered in this time has failed. */
export const READ_MS = 10_000;
const WRITE_MS = 20_000;
/** Where `minutehand install` puts what clients see, by default. */
const INSTALLED = "minutehand";

const schemas = new WeakMap();

/** Say once in which schema a client's jobs are; an option `schema` of a call goes before it. */
export function setSchema(client, schema) {
  schemas.set(client, schema);
}

/** Our tables and functions, over a supabase-js client. */
export const within = (client, schema) => client.schema(schema ?? schemas.get(client) ?? INSTALLED);

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
}

/** What a supabase-js query gives, or a `QueueError`. */
export async function unwrap(query) {
  const { data, error, status } = await query;
  if (error) throw new QueueError(error, status);
  return data;
}

/**
 * What `run(signal)` gives, or the error of `limit` when that comes first: also of what ignores the
 * signal, as supabase-js while it renews a token.
 */
export function inTime(run, limit) {
  const over = new Promise((_, reject) =>
    limit.addEventListener("abort", () => reject(limit.reason), { once: true }),
  );
  return Promise.race([run(limit), over]);
}

/**
 * What a read answers that is repeated while too many of its person or workspace run, as other
 * pages' do: soon, then each second, as the refusal asks, and never all pages at once.
 */
export async function patiently(read, signal) {
  for (let pause = 100; ; pause = Math.min(2 * pause, 1000)) {
    const answer = await read();
    if (answer.status !== 429 || signal.aborted) return answer;
    await new Promise((then) => setTimeout(then, pause * (0.5 + Math.random())));
  }
}

/** One answer within its time. */
export async function once(query, ms = READ_MS, run = patiently) {
  // no retries of its own: the follower repeats, and says meanwhile that it is not up to date
  const single = query.retry ? query.retry(false) : query;
  const read = (signal) => unwrap(run(() => single.abortSignal(signal), signal));
  try {
    return await inTime(read, AbortSignal.timeout(ms));
  } catch (error) {
    throw error instanceof QueueError ? error : new QueueError({}, 0);
  }
}

/** What one of our functions answers. */
export const call = (client, schema, name, values) =>
  once(within(client, schema).rpc(name, values));

const change = (client, schema, name, values) =>
  once(within(client, schema).rpc(name, values), WRITE_MS, (send) => send());

/**
 * Add one job; with an `idempotency_key`, or find the one that key made.
 *
 * The database checks the payload against the type's schema and the caller's membership.
 *
 * @example
 * const { job } = await enqueue(supabase, "invoices.mail", { invoice: 7 }, { workspace_id });
 */
export const enqueue = (client, jobType, payload, { workspace_id, schema, ...options }) =>
  change(client, schema, "enqueue_job", {
    p_workspace_id: workspace_id,
    p_job_type: jobType,
    p_payload: payload,
    p_options: options,
  });

/** Cancel a job and its live children; its row. */
export const cancel = (client, jobId, { schema } = {}) =>
  change(client, schema, "cancel_job", { p_job_id: jobId });

/** Run a failed or cancelled job again, or a delayed one now; its row. */
export const retry = (client, jobId, { payload, schema } = {}) =>
  change(client, schema, "retry_job", { p_job_id: jobId, p_payload: payload ?? null });

/** Answer the question a job waits with, of several by its `name`; its row. */
export const answer = (client, jobId, value, { name, schema } = {}) =>
  change(client, schema, "answer_job", { p_job_id: jobId, p_answer: { answer: value, name } });
