// Entry module of the npm package `minutehand`, which enqueues and follows jobs from a browser or
// from Node.

export { answer, cancel, emitEvent, enqueue, enqueueMany, replay, retry } from "./jobs/changes.js";
export { QueueError, setSchema } from "./jobs/client.js";
export { ENDED } from "./jobs/ended.js";
export { FRESHNESS } from "./jobs/follower.js";
export { outputOf } from "./jobs/pieces.js";
export { waitAll } from "./jobs/wait.js";
export { JobGone, watchJob } from "./jobs/watch-job.js";
export { watchJobs, watchSession, watchWorkspace } from "./jobs/watch.js";
