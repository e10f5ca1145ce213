/**
 * Follow Minutehand jobs from a browser (or Node), exactly: nothing missed, nothing twice.
 *
 * Published as the npm package `minutehand`: plain ES modules without dependencies that take your
 * own supabase-js client. A watch joins the private Realtime topic, reads what is in the database
 * after that, and merges both by `seq`. It reads again when it sees a gap, joins again after a
 * sleep, when the network or the page comes back, and after 30 s of silence; it pushes fresh
 * tokens to the socket; it polls when Realtime is away. `freshness` says which of these it does:
 * `live`, `catching-up`, `polling` or `offline`, and `live` only when it is.
 *
 * @example
 * import { watchJob } from "minutehand";
 *
 * const watch = watchJob(supabase, jobId, {
 *   history: true,
 *   onEvent: (event) => console.log(event.seq, event.type, event.data),
 *   onChange: ({ status, progress, freshness }) => render(status, progress?.percentage, freshness),
 * });
 * const job = await watch.ended; // completed, failed or cancelled
 * watch.close();
 */

import { readsOf, readsOfSession } from "./jobs/reads.js";
import { topicsOf } from "./jobs/topics.js";
import { JobWatch } from "./jobs/watch-job.js";
import { SessionWatch } from "./jobs/watch-session.js";
import { WorkspaceWatch } from "./jobs/watch-workspace.js";

/** @import { Client, JobType } from "./jobs/types.js" */

export { enqueue } from "./jobs/enqueue.js";
export { FRESHNESS } from "./jobs/follower.js";
export { makeUseJobStatus } from "./jobs/hooks.js";
export { QueueError, setSchema } from "./jobs/reads.js";
export { applyEvent, ENDED, normalizeEvent, Sequence } from "./jobs/sequence.js";
export { JobGone } from "./jobs/watch-job.js";

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
 * @param {import("./jobs/watch-job.js").JobOptions<T>} [options]
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
 * @param {import("./jobs/watch-workspace.js").WorkspaceOptions} [options]
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
 * @param {import("./jobs/watch-session.js").SessionOptions} [options]
 * @returns {SessionWatch} `.state .subscribe() .refresh() .close()`
 */
export function watchSession(client, sessionId, options = {}) {
  const reads = readsOfSession(client, sessionId, options.schema);
  return started(new SessionWatch(reads, topicsOf(client), sessionId, options));
}
