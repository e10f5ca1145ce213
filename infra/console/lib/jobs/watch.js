// Two watches, started: of one job, of a workspace's jobs.

import { readsOf, readsOfSession } from "./reads.js";
import { topicsOf } from "./topics.js";
import { JobWatch } from "./watch-job.js";
import { WorkspaceWatch } from "./watch-workspace.js";

/** @import { Client, JobType } from "./types.js" */

/**
 * @template {{start(): void}} W
 * @param {W} watch
 */
function started(watch) {
  watch.start();
  return watch;
}

/**
 * Follow one job.
 *
 * @template {JobType} T
 * @param {Client} client A signed-in supabase-js client.
 * @param {string} jobId
 * @param {import("./watch-job.js").JobOptions<T>} [options]
 * @returns {JobWatch<T>} `.state .ended .subscribe() .refresh() .cancel() .close()`
 */
export function watchJob(client, jobId, options = {}) {
  const reads = readsOfSession(client, options.guestSession, options.schema);
  return started(new JobWatch(client, reads, topicsOf(client), jobId, options));
}

/**
 * Follow the state changes of all jobs of a workspace.
 *
 * @param {Client} client A signed-in supabase-js client.
 * @param {string} workspaceId
 * @param {import("./watch-workspace.js").WorkspaceOptions} [options]
 * @returns {WorkspaceWatch} `.state .subscribe() .refresh() .close()`
 */
export function watchWorkspace(client, workspaceId, options = {}) {
  const reads = readsOf(client, options.schema);
  return started(new WorkspaceWatch(reads, topicsOf(client), workspaceId, options));
}
