// Puts the events of a job in order, and computes the job's row after each event. The module does
// no I/O and uses no clock.

export { ENDED } from "./ended.js"; // for pages of apps

/**
 * Maximum number of events that are kept while an earlier event is missing. Events above this
 * maximum are dropped, and read from the database later.
 */
const MAX_WAITING = 1000;

/**
 * Delivers each event of a job once, in the order of `seq`, which has no gaps.
 *
 * `Sequence` keeps an event that arrives too early until the earlier events have arrived. If
 * `hasGap` is true, the caller must read the missing events from the database.
 */
export class Sequence {
  #next;
  #waiting = new Map();
  #dropped = false;

  constructor(after = 0) {
    this.#next = after + 1;
  }

  /** The number `seq` of the last delivered event. */
  get last() {
    return this.#next - 1;
  }

  /** Is true if an event is missing although a later event has arrived. */
  get hasGap() {
    return this.#waiting.size > 0 || this.#dropped;
  }

  /**
   * Add events, in any order and with repetitions. Return the events that can be delivered now.
   */
  offer(events) {
    const ready = [];
    for (const event of events) {
      if (!Number.isSafeInteger(event?.seq) || event.seq < this.#next) continue;
      if (event.seq === this.#next) ready.push(...this.#advance(event));
      else if (this.#waiting.size < MAX_WAITING) this.#waiting.set(event.seq, event);
      else this.#dropped = true;
    }
    return ready;
  }

  /**
   * Add a page of events from the database. The page contains every event that follows an already
   * delivered event, in order.
   *
   * If the page lacks a number `seq`, skip the number, because the database has deleted the event
   * because of its age.
   */
  offerPage(page, { isLast }) {
    const ready = [];
    for (const event of page) if (event.seq >= this.#next) ready.push(...this.#advance(event));
    if (isLast) this.#dropped = false;
    return ready;
  }

  #advance(event) {
    const ready = [event];
    this.#next = event.seq + 1;
    for (let next; (next = this.#waiting.get(this.#next)); this.#next += 1) ready.push(next);
    for (const seq of this.#waiting.keys()) if (seq < this.#next) this.#waiting.delete(seq);
    return ready;
  }
}

/**
 * Return whether an event of the type changes fields of the job's row that the event does not
 * contain.
 */
export const needsRow = (type) => type !== "job.progress" && type !== "job.log";

/**
 * Return the job's row with the status and the progress of an event. If the event changes other
 * fields, clear fields of the old status, because the caller reads the row again. If `seq` of the
 * event is not higher than `last_seq` of the row, the row already contains the event and does not
 * change. A page may therefore apply events that are older than the row.
 */
export function applyEvent(job, { type, seq, data }) {
  if (!job || seq <= (job.last_seq ?? 0)) return job;
  const next = { ...job, ...(data.progress && { progress: data.progress }), last_seq: seq };
  if (!needsRow(type)) return next;
  const status = data.status ?? job.status;
  return { ...next, status, state: undefined, next_retry_at: null, waiting_for: null };
}

/**
 * Convert an event to the form of Realtime's events. An event from Realtime has `at`, and an event
 * from a database row has `created_at`.
 */
export function normalizeEvent(raw) {
  if (typeof raw?.type !== "string") return null;
  const seq = Number(raw.seq ?? NaN);
  if (!Number.isSafeInteger(seq) || typeof raw.job_id !== "string") return null;
  return {
    job_id: raw.job_id,
    seq,
    type: raw.type,
    data: raw.data ?? {},
    at: raw.at ?? raw.created_at,
  };
}
