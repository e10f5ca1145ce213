/**
 * Follow Minutehand jobs from a browser (or Node), exactly: nothing missed, nothing twice.
 *
 * Published as the npm package `minutehand`: plain ES modules without dependencies that take your
 * own supabase-js client. A watch joins the private Realtime topic, reads what is in the database
 * after that, and merges both by `seq`. It reads again when it sees a gap, joins again after a
 * sleep, when the network or the page comes back, and after 30 s of silence; it pushes fresh
 * tokens to the socket; it polls when Realtime is unavailable. `freshness` says which of these it does:
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

export { enqueue } from "./jobs/enqueue.js";
export { FRESHNESS } from "./jobs/follower.js";
export { QueueError, setSchema } from "./jobs/reads.js";
export { applyEvent, ENDED, normalizeEvent, Sequence } from "./jobs/sequence.js";
export { makeUseJobStatus } from "./jobs/use-job-status.js";
export { watchJob, watchWorkspace } from "./jobs/watch.js";
export { JobGone } from "./jobs/watch-job.js";
export { watchJobs } from "./jobs/watch-jobs.js";
export { watchSession } from "./jobs/watch-session.js";
