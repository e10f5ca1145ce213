// The three watches, started: of one job, of a workspace's jobs, of a session's.

import { readsOf, readsOfSession } from "./reads.js";
import { topicsOf } from "./topics.js";
import { JobWatch } from "./watch-job.js";
import { SessionWatch } from "./watch-session.js";
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

/**
 * Follow all jobs of a session: a conversation, a guest session.
 *
 * A session that was opened by `open_guest_session` needs no signed-in user: its id is the key, and the
 * publishable key is enough where anonymous use is allowed. Its rows have no payloads.
 *
 * @param {Client} client A supabase-js client, signed in unless the session is a guest session.
 * @param {string} sessionId
 * @param {import("./watch-session.js").SessionOptions} [options]
 * @returns {SessionWatch} `.state .subscribe() .refresh() .close()`
 */
export function watchSession(client, sessionId, options = {}) {
  const reads = readsOfSession(client, sessionId, options.schema);
  return started(new SessionWatch(reads, topicsOf(client), sessionId, options));
}
