// The one table of states: each is a word, a tone and a mark, everywhere in the console.

import { serverNow } from "./format.js";

export const STATES = {
  queued: { word: "Queued", tone: "pending", mark: "ring" },
  scheduled: { word: "Scheduled", tone: "pending", mark: "clock" },
  retrying: { word: "Retrying", tone: "failed", mark: "again" },
  running: { word: "Running", tone: "processing", mark: "dot" },
  suspended: { word: "Suspended", tone: "waiting", mark: "pause" },
  completed: { word: "Completed", tone: "completed", mark: "check" },
  failed: { word: "Failed", tone: "failed", mark: "cross" },
  cancelled: { word: "Cancelled", tone: "cancelled", mark: "slash" },
};

/** The states in the order of a job's life. */
export const NAMES = Object.keys(STATES);

/** What a status means as long as nothing more is known of the job. */
const OF_STATUS = { pending: "queued", processing: "running", waiting: "suspended" };

/** The status of a state: what is pending has several. */
export const statusOf = (state) =>
  state === "scheduled" || state === "retrying"
    ? "pending"
    : (Object.keys(OF_STATUS).find((status) => OF_STATUS[status] === state) ?? state);

/** The state people look for, as queue.state_of derives it. Pure. */
export function stateOfJob(
  { status, attempts, next_retry_at: retryAt, scheduled_for: scheduledFor },
  now = serverNow(),
) {
  if (status !== "pending") return OF_STATUS[status] ?? status;
  const due = retryAt ?? scheduledFor;
  if (!due || Date.parse(due) <= now) return "queued";
  return retryAt && (attempts ?? 0) > 0 ? "retrying" : "scheduled";
}

/** When a job runs next, as far as it is known: an instant, or null. Pure. */
export const nextRunOf = (job) =>
  job.status === "pending"
    ? (job.next_retry_at ?? job.scheduled_for ?? null)
    : job.status === "waiting"
      ? (job.waiting_for?.until ?? job.next_run_at ?? null)
      : null;

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

/** How an attempt ended, in a word with its tone; without an outcome it runs. */
export const outcomeOf = (outcome) =>
  outcome
    ? (ATTEMPT_OUTCOMES[outcome] ?? { word: outcome, tone: "pending" })
    : { word: "Running", tone: "processing" };

export const FRESHNESS = {
  live: {
    word: "Live",
    tone: "completed",
    hint: "Subscribed, and everything up to now has been read.",
  },
  "catching-up": {
    word: "Catching up",
    tone: "pending",
    hint: "Reading what may have been missed.",
  },
  polling: {
    word: "Polling",
    tone: "waiting",
    hint: "Realtime is unavailable; reading every few seconds instead.",
  },
  offline: {
    word: "Offline",
    tone: "failed",
    hint: "The server cannot be reached; the last known state is shown.",
  },
};

/** A state, or the one that a status means: word, tone and mark. */
export const stateOf = (status) =>
  STATES[OF_STATUS[status] ?? status] ?? {
    word: String(status ?? "unknown"),
    tone: "pending",
    mark: "ring",
  };
