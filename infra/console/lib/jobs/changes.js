// What a person does to jobs, by the Data API and under their own rights: each once, and repeated
// only where the refusal says that nothing was done because another transaction has the job.

import { call, QueueError, retryWhileLocked } from "./client.js";

const WRITE_MS = 20_000;

async function change(client, schema, name, values, isWhole) {
  refuseUnsendable(values);
  const options = { ms: WRITE_MS, run: retryWhileLocked, isWhole };
  return call(client, schema, name, values, options);
}

/** Refuse what no JSON or no text of Postgres can hold; by a browser's words it would not be known. */
function refuseUnsendable(values) {
  const refuse = (message) => {
    throw new QueueError({ message, code: "PT400", hint: "payload_invalid" }, 400);
  };
  const look = (name, value) => {
    for (const text of [name, value])
      if (typeof text === "string" && (text.includes("\0") || LONE_SURROGATE.test(text)))
        refuse(`${name} must not hold a NUL character or half of a surrogate pair`);
    return value;
  };
  try {
    JSON.stringify(values, look);
  } catch (error) {
    if (error instanceof QueueError) throw error;
    refuse(`it must be JSON: ${error.message}`); // circular, or a bigint
  }
}

const LONE_SURROGATE = /\p{Surrogate}/u;
const isRow = (data) => typeof data?.id === "string";
const isMade = (data) => isRow(data?.job);

/**
 * Add one job; with an `idempotency_key`, or find the one that key made.
 *
 * The database checks the payload against the type's schema and the caller's membership.
 *
 * @example
 * const { job } = await enqueue(supabase, "invoices.mail", { invoice: 7 }, { workspace_id });
 */
export const enqueue = (client, jobType, payload, { workspace_id, schema, ...options }) =>
  change(
    client,
    schema,
    "enqueue_job",
    { p_workspace_id: workspace_id, p_job_type: jobType, p_payload: payload, p_options: options },
    isMade,
  );

/** Add 1 to 1,000 jobs, all or none, each `{ job_type, payload, …options }`. */
export const enqueueMany = (client, jobs, { workspace_id, schema }) =>
  change(client, schema, "enqueue_jobs", { p_workspace_id: workspace_id, p_jobs: jobs }, (data) =>
    Array.isArray(data?.jobs),
  );

/** Cancel a job and its live children; its row. */
export const cancel = (client, jobId, { schema } = {}) =>
  change(client, schema, "cancel_job", { p_job_id: jobId }, isRow);

/** Run a failed or cancelled job again, or a delayed one now; its row. */
export const retry = (client, jobId, { payload, schema } = {}) =>
  change(client, schema, "retry_job", { p_job_id: jobId, p_payload: payload ?? null }, isRow);

/** Run a job again as a new one, from its start or `from_step`, one that finished. */
export const replay = (client, jobId, { schema, ...request } = {}) =>
  change(client, schema, "replay_job", { p_job_id: jobId, p_request: request }, isMade);

/** Answer the question a job waits with, of several by its `name`; its row. */
export const answer = (client, jobId, value, { name, schema } = {}) =>
  change(
    client,
    schema,
    "answer_job",
    { p_job_id: jobId, p_answer: { answer: value, name } },
    isRow,
  );

/** Emit the event that jobs wait for by its name; the first of a name counts. */
export const emitEvent = (client, name, payload, { workspace_id, schema }) =>
  change(
    client,
    schema,
    "emit_event",
    { p_workspace_id: workspace_id, p_name: name, p_payload: payload ?? {} },
    (data) => typeof data?.first === "boolean",
  );
