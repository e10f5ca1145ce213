// Enqueueing from a browser or Node, typed by what `minutehand types` wrote.

import { unwrap, within } from "./reads.js";

/** @import { Client, Enqueued, EnqueueOptions, JobType, PayloadOf } from "./types.js" */

/**
 * Add one job; with an `idempotency_key`, or find the one that key made.
 *
 * The database checks the payload against the type's schema and the caller's membership.
 *
 * @template {JobType} T
 * @param {Client} client A signed-in supabase-js client.
 * @param {T} jobType
 * @param {PayloadOf<T>} payload
 * @param {EnqueueOptions & {workspace_id: string, schema?: string}} options The workspace, and the
 *   options of the SQL function `enqueue_job` by their names there.
 * @returns {Promise<Enqueued<T>>}
 * @throws {import("./reads.js").QueueError} `code` is a stable word: `workspace_not_found`,
 *   `unknown_job_type`, `payload_invalid`, `payload_too_large`, `duplicate_job`, `quota_exceeded`, …
 *
 * @example
 * const { job } = await enqueue(supabase, "invoices.mail", { invoice: 7 }, { workspace_id });
 */
export async function enqueue(client, jobType, payload, { workspace_id, schema, ...options }) {
  return unwrap(
    within(client, schema).rpc("enqueue_job", {
      p_workspace_id: workspace_id,
      p_job_type: jobType,
      p_payload: payload,
      p_options: options,
    }),
  );
}
