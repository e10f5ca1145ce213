// Puts the events of a job in order, and computes the job's row after each event. The module does
// no I/O and uses no clock.

/** Values of `status` of a job that has ended. */
export const ENDED = new Set(["completed", "failed", "cancelled"]);

/**
 * Maximum number of events that are kept while an earlier event is missing. The events above the
 * maximum are read from the database later.
 */
const MAX_WAITING = 1000;

/**
 * Delivers each event of a job once, in the order of `seq`, which has no gaps.
 *
 * An event that arrives too early is kept until the earlier events have arrived. If `hasGap` is
 * true, the caller must read the missing events from the database.
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
   * Add events, in any order and with repetitions. Returns the events that can be delivered now.
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
   * Add a page of events from the database. The page contains, in order, every event after an event
   * that was already delivered.
   *
   * If a number is missing in the page, the database has deleted the event because of its age, so
   * the number is skipped.
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
 * Return the events in a message of a Realtime topic. A message is one event, a list of events, or
 * a list of groups. The events of a group are equal except for the job and `seq`.
 */
export function eventsOf(payload) {
  if (Array.isArray(payload?.groups)) return payload.groups.flatMap(eventsOfGroup);
  return Array.isArray(payload?.events) ? payload.events : [payload];
}

/**
 * Return the events of a group, one event for each job. `seqs` is a list with a number for each
 * job, or one number for all jobs.
 */
function eventsOfGroup(group) {
  const { job_ids: jobs, seqs, ...rest } = group ?? {};
  if (!Array.isArray(jobs) || !Array.isArray(seqs)) return [{}];
  if (seqs.length !== 1 && seqs.length !== jobs.length) return [{}];
  return jobs.map((job_id, n) => ({ job_id, seq: seqs[n] ?? seqs[0], ...rest }));
}

/**
 * Return whether an event of the type changes fields of the job's row that the event does not
 * contain.
 */
export const needsRow = (type) => type !== "job.progress" && type !== "job.log";

/**
 * Return the job's row after an event. If the row already contains the event, because `seq` is not
 * higher than `last_seq` of the row, the row does not change. A page may therefore apply events
 * that happened before it read the row.
 */
export function applyEvent(job, event) {
  if (!job || event.seq <= (job.last_seq ?? 0)) return job;
  const data = event.data ?? {};
  const next = { ...job, last_seq: event.seq, updated_at: event.at ?? job.updated_at };
  if (typeof data.status === "string" && data.status !== job.status) {
    next.status = data.status;
    delete next.state; // the database derives `state`, so the row is read again
  }
  if (Number.isInteger(data.attempts)) next.attempts = data.attempts;
  if (data.progress && typeof data.progress === "object") next.progress = data.progress;
  if (typeof data.error_message === "string") next.error_message = data.error_message;
  if ("next_retry_at" in data) next.next_retry_at = data.next_retry_at;
  else if (needsRow(event.type)) next.next_retry_at = null;
  if (event.type === "job.waiting") next.waiting_for = data.wait ?? null;
  else if (next.status !== "waiting") next.waiting_for = null;
  if (event.type === "job.leased") next.started_at = job.started_at ?? event.at;
  if (event.type === "job.cancel_requested") next.cancel_requested_at = event.at;
  if (event.type === "job.redriven")
    Object.assign(next, { result: null, cancel_requested_at: null, scheduled_for: null });
  next.finished_at = ENDED.has(next.status) ? (job.finished_at ?? event.at) : null;
  next.completed_at = next.status === "completed" ? next.finished_at : null;
  return next;
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
