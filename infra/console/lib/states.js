// The one table of states: each is a word, a tone and a mark, everywhere in the console.

export const STATES = {
  pending: { word: "Pending", tone: "pending", mark: "ring" },
  processing: { word: "Processing", tone: "processing", mark: "dot" },
  waiting: { word: "Waiting", tone: "waiting", mark: "pause" },
  completed: { word: "Completed", tone: "completed", mark: "check" },
  failed: { word: "Failed", tone: "failed", mark: "cross" },
  cancelled: { word: "Cancelled", tone: "cancelled", mark: "slash" },
};

/** The statuses in the order of a job's life. */
export const STATUSES = Object.keys(STATES);

/** How an attempt ended: word and tone. */
export const ATTEMPT_OUTCOMES = {
  completed: { word: "Completed", tone: "completed" },
  retry: { word: "Failed, retried", tone: "failed" },
  failed: { word: "Failed", tone: "failed" },
  lost: { word: "Worker lost", tone: "failed" },
  snoozed: { word: "Snoozed", tone: "pending" },
  released: { word: "Handed back", tone: "pending" },
  waiting: { word: "Suspended", tone: "waiting" },
  cancelled: { word: "Cancelled", tone: "cancelled" },
};

export const FRESHNESS = {
  live: { word: "Live", tone: "completed", hint: "Joined, and everything up to now was read." },
  "catching-up": { word: "Catching up", tone: "pending", hint: "Reading what may have been missed." },
  polling: { word: "Polling", tone: "waiting", hint: "Realtime is away; reading every few seconds instead." },
  offline: { word: "Offline", tone: "failed", hint: "The server cannot be reached; shown is what was known." },
};

export const stateOf = (status) => STATES[status] ?? { word: String(status ?? "unknown"), tone: "pending", mark: "ring" };
