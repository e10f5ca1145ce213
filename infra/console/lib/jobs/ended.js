/** Statuses of a finished job. */
export const ENDED = new Set(["completed", "failed", "cancelled"]);
