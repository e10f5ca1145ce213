// Functions that change jobs through Supabase's Data API, with the rights of the signed-in person.
// A function sends its change again only if the database rejected the change because of a
// concurrent call, because the database then has stored nothing.

import { call, QueueError, retryWhileLocked } from "./client.js";

const WRITE_MS = 20_000;

async function change(client, schema, name, values, isWhole) {
  rejectInvalid(values);
  const options = { ms: WRITE_MS, run: retryWhileLocked, isWhole };
  return call(client, schema, name, values, options);
}

/**
 * Throw a `QueueError` for values that JSON or Postgres's type `text` cannot represent. The error
 * message of a browser would not name the invalid value.
 */
function rejectInvalid(values) {
  const reject = (message) => {
    throw new QueueError({ message, code: "PT400", hint: "payload_invalid" }, 400);
  };
  const check = (name, value) => {
    for (const text of [name, value])
      if (typeof text === "string" && (text.includes("\0") || LONE_SURROGATE.test(text)))
        reject(`${name} must not contain a NUL character or half of a surrogate pair`);
    return value;
  };
  try {
    JSON.stringify(values, check);
  } catch (error) {
    if (error instanceof QueueError) throw error;
    reject(`the value must be JSON: ${error.message}`); // it is circular or has a bigint
  }
}

const LONE_SURROGATE = /\p{Surrogate}/u;
const isRow = (data) => typeof data?.id === "string";
const isCreated = (data) => isRow(data?.job);

/**
 * Add one job. If a job with the same `idempotency_key` exists, return the existing job.
 *
 * The database checks the payload by the schema of the job type, and checks that the caller is a
 * member of the workspace.
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
    isCreated,
  );

/**
 * Add 1 to 1,000 jobs `{ job_type, payload, …options }`. `enqueueMany` adds either all of the jobs
 * or none of them.
 */
export const enqueueMany = (client, jobs, { workspace_id, schema }) =>
  change(client, schema, "enqueue_jobs", { p_workspace_id: workspace_id, p_jobs: jobs }, (data) =>
    Array.isArray(data?.jobs),
  );

/** Cancel a job and its child jobs that have not ended. Returns the job's row after the change. */
export const cancel = (client, jobId, { schema } = {}) =>
  change(client, schema, "cancel_job", { p_job_id: jobId }, isRow);

/**
 * Run a failed or cancelled job again, or run a delayed job now. Returns the job's row after the
 * change.
 */
export const retry = (client, jobId, { payload, schema } = {}) =>
  change(client, schema, "retry_job", { p_job_id: jobId, p_payload: payload ?? null }, isRow);

/** Create a copy of a job and run it, from the start or from a finished step (`from_step`). */
export const replay = (client, jobId, { schema, ...request } = {}) =>
  change(client, schema, "replay_job", { p_job_id: jobId, p_request: request }, isCreated);

/**
 * Answer a question that a job asks. If the job asks several questions, `name` selects one. Returns
 * the job's row after the change.
 */
export const answer = (client, jobId, value, { name, schema } = {}) =>
  change(
    client,
    schema,
    "answer_job",
    { p_job_id: jobId, p_answer: { answer: value, name } },
    isRow,
  );

/**
 * Emit a named event, so that the jobs that wait for the event continue. A second event with the
 * same name has no effect.
 */
export const emitEvent = (client, name, payload, { workspace_id, schema }) =>
  change(
    client,
    schema,
    "emit_event",
    { p_workspace_id: workspace_id, p_name: name, p_payload: payload ?? {} },
    (data) => typeof data?.first === "boolean",
  );
