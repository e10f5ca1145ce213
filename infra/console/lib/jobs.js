// Enqueue and follow Minutehand jobs from a browser or Node: the npm package `minutehand`.

export { answer, cancel, enqueue, QueueError, retry, setSchema } from "./jobs/client.js";
export { FRESHNESS } from "./jobs/follower.js";
export { ENDED } from "./jobs/sequence.js";
export { JobGone, watchJob, watchJobs, watchSession, watchWorkspace } from "./jobs/watch.js";
