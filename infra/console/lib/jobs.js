// Enqueue and follow Minutehand jobs from a browser or Node: the npm package `minutehand`, plain ES modules
// without dependencies that take your own supabase-js client.

export { enqueue, QueueError, setSchema } from "./jobs/client.js";
export { FRESHNESS } from "./jobs/follower.js";
export { ENDED } from "./jobs/sequence.js";
export { JobGone, watchJob, watchJobs, watchSession, watchWorkspace } from "./jobs/watch.js";
