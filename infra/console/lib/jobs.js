/**
 * Follow Minutehand jobs from a browser (or Node), exactly: nothing missed, nothing twice.
 *
 * Usable outside the console: a plain ES module without dependencies that takes your own
 * supabase-js client. A watch joins the private Realtime topic, reads what is in the database
 * after that, and merges both by `seq`. It reads again when it sees a gap, joins again after a
 * sleep, when the network or the page comes back, and after 30 s of silence; it pushes fresh
 * tokens to the socket; it polls when Realtime is away. `freshness` says which of these it does:
 * `live`, `catching-up`, `polling` or `offline`, and `live` only when it is.
 *
 * @example
 * import { watchJob } from "./lib/jobs.js";
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

export { FRESHNESS } from "./jobs/follower.js";
export { makeUseJobStatus } from "./jobs/hooks.js";
export { ReadError } from "./jobs/reads.js";
export { applyEvent, ENDED, normalizeEvent, Sequence } from "./jobs/sequence.js";
export { JobGone } from "./jobs/watch-job.js";

function started(watch) {
  watch.start();
  return watch;
}

/**
 * Follow one job.
 *
 * @param {object} client A signed-in supabase-js client.
 * @param {string} jobId
 * @param {object} [options]
 * @param {boolean} [options.history] Also hand out and keep the events that lie in the past.
 * @param {number} [options.historyLimit] At most so many of them, 2,000 by default.
 * @param {number} [options.after] Hand out events after this `seq` instead.
 * @param {(event: {job_id, seq, type, data, at}) => void} [options.onEvent] Each event once, in
 *   order; without `history` those that happen from now on.
 * @param {(state: object) => void} [options.onChange] At most once per frame; see `JobWatch.state`.
 * @param {(jobId: string) => Promise<object>} [options.cancel] How to cancel; by RPC if left out.
 * @param {string} [options.visit] The visit the job belongs to, for the user it was opened for.
 * @param {number} [options.pollingInterval] Milliseconds between reads while Realtime is away.
 * @returns {JobWatch} `.state .ended .subscribe() .refresh() .cancel() .close()`
 */
export function watchJob(client, jobId, options = {}) {
  const reads = readsOfSession(client, options.visit);
  return started(new JobWatch(client, reads, topicsOf(client), jobId, options));
}

/**
 * Follow the state changes of all jobs of a workspace.
 *
 * @param {object} [options]
 * @param {(event: object) => void} [options.onEvent] Each state change from now on, once; what the
 *   socket lost comes late. A job's `seq` has holes: progress and logs do not travel here.
 * @param {(why: {first: boolean}) => Promise<void> | void} [options.onResync] Read what you show:
 *   once at the start, and again after an absence too long to be told event by event.
 * @param {(state: {freshness: string}) => void} [options.onChange]
 * @returns {WorkspaceWatch} `.state .subscribe() .refresh() .close()`
 */
export function watchWorkspace(client, workspaceId, options = {}) {
  return started(new WorkspaceWatch(readsOf(client), topicsOf(client), workspaceId, options));
}

/**
 * Follow all jobs of a session: a conversation, a visit.
 *
 * A session that was opened by `open_visit` needs no signed-in user: its id is the key, and the
 * publishable key is enough where anonymous use is allowed. Its rows have no payloads.
 *
 * @param {object} client A supabase-js client, signed in unless the session is a visit.
 * @param {object} [options]
 * @param {boolean} [options.history] Also hand out the events that lie in the past.
 * @param {(event: object) => void} [options.onEvent] Each event but log lines, once, in order per job.
 * @param {(state: {jobs: object[], freshness: string}) => void} [options.onChange]
 * @returns {SessionWatch} `.state .subscribe() .refresh() .close()`
 */
export function watchSession(client, sessionId, options = {}) {
  return started(new SessionWatch(readsOfSession(client, sessionId), topicsOf(client), sessionId, options));
}
