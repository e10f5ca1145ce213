/** Statuses that a job has after its end. */
export const ENDED = new Set(["completed", "failed", "cancelled"]);
