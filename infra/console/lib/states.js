// All job states that the console shows, each with a word, a colour (tone) and an icon.

export const STATES = {
  queued: { word: "Queued", tone: "pending", mark: "ring" },
  scheduled: { word: "Scheduled", tone: "pending", mark: "clock" },
  retrying: { word: "Retrying", tone: "waiting", mark: "again" },
  running: { word: "Running", tone: "processing", mark: "dot" },
  suspended: { word: "Suspended", tone: "waiting", mark: "pause" },
  completed: { word: "Completed", tone: "completed", mark: "check" },
  failed: { word: "Failed", tone: "failed", mark: "cross" },
  cancelled: { word: "Cancelled", tone: "cancelled", mark: "slash" },
};

/**
 * Return the colour (tone) of a kind of `attention`, or of a finding's reason. Red jobs need a
 * person: they failed, or no worker takes them. Amber jobs may go on by themselves: they retry, or
 * are silent.
 */
export const toneOf = (kind) =>
  /^(failed|no.(worker|processor))$/.test(kind) ? "failed" : "waiting";

/** Names of the job states, in the order in which a job goes through them. */
export const NAMES = Object.keys(STATES);

/** Job state to show for each job status, if the job's exact state is unknown. */
const STATE_BY_STATUS = { pending: "queued", processing: "running", waiting: "suspended" };

/** Return whether jobs in this state wait for the time of their next run. */
export const isDelayed = (state) => state === "scheduled" || state === "retrying";

/** Return the time of a job's next run, or null if the time is unknown. */
export const nextRunOf = (job) =>
  job.status === "pending"
    ? (job.next_retry_at ?? job.scheduled_for ?? null)
    : job.status === "waiting"
      ? (job.waiting_for?.until ?? job.next_run_at ?? null)
      : null;

/**
 * Return the state of a job, or the job's status if the state is unknown. If the time of a delayed
 * job has come, the job's state is `queued`.
 */
export const stateAt = (job, now) =>
  isDelayed(job.state) && Date.parse(nextRunOf(job)) <= now ? "queued" : (job.state ?? job.status);

const ATTEMPT_OUTCOMES = {
  completed: { word: "Completed", tone: "completed" },
  retry: { word: "Failed, retried", tone: "failed" },
  failed: { word: "Failed", tone: "failed" },
  lost: { word: "Worker lost", tone: "failed" },
  died: { word: "Process died", tone: "pending" },
  snoozed: { word: "Snoozed", tone: "pending" },
  released: { word: "Released", tone: "pending" },
  waiting: { word: "Suspended", tone: "waiting" },
  cancelled: { word: "Cancelled", tone: "cancelled" },
};

/**
 * Return the word and the colour (tone) for an attempt's outcome. An attempt without an outcome is
 * running.
 */
export const outcomeOf = ({ outcome, process_ended: hasEnded }) =>
  outcome
    ? {
        ...(ATTEMPT_OUTCOMES[outcome] ?? { word: outcome, tone: "pending" }),
        ...(hasEnded === false && { word: "Lease expired" }),
      }
    : { word: "Running", tone: "processing" };

export const FRESHNESS = {
  live: {
    word: "Live",
    tone: "completed",
    hint: "Shows each change at once, and many changes every few seconds.",
  },
  "catching-up": {
    word: "Catching up",
    tone: "pending",
    hint: "Reading what may have been missed.",
  },
  polling: {
    word: "Polling",
    tone: "waiting",
    hint: "Realtime delivers no changes. The page reads every few seconds instead.",
  },
  offline: {
    word: "Offline",
    tone: "failed",
    hint: "The server cannot be reached. The page shows the last known state.",
  },
};

/** Return the word, colour (tone) and icon for a job's state or status. */
export const stateOf = (status) =>
  STATES[STATE_BY_STATUS[status] ?? status] ?? {
    word: String(status ?? "unknown"),
    tone: "pending",
    mark: "ring",
  };
