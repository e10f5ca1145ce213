// Puts a job's events in order, and computes the job's row after each event. The module is pure,
// without I/O or clock.

/** Statuses of a finished job. */
export const ENDED = new Set(["completed", "failed", "cancelled"]);

/**
 * Maximum number of events to keep while an earlier event is missing. Further events are read from
 * the database later.
 */
const MAX_WAITING = 1000;

/**
 * Delivers the events of a job in the order of `seq`, which has no gaps, each event once.
 *
 * An event that arrives too early waits. If `hasGap` is true, an earlier event is missing and must
 * be read.
 */
export class Sequence {
  #next;
  #waiting = new Map();
  #dropped = false;

  constructor(after = 0) {
    this.#next = after + 1;
  }

  /** `seq` of the last event that was delivered. */
  get last() {
    return this.#next - 1;
  }

  /** Whether an event is missing although a later event has arrived. */
  get hasGap() {
    return this.#waiting.size > 0 || this.#dropped;
  }

  /**
   * Add events in any order and any number of times. Returns the events that can be delivered now.
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
   * Add a page from the database that contains, in order, every event after one that was delivered.
   *
   * The database removes events only by retention, so a missing number in a page is skipped.
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
 * Return the events in a message of a topic. The message is one event, a list of events, or a list
 * of groups. The events of a group differ only in job and `seq`.
 */
export function eventsOf(payload) {
  if (Array.isArray(payload?.groups)) return payload.groups.flatMap(eventsOfGroup);
  return Array.isArray(payload?.events) ? payload.events : [payload];
}

/**
 * Return the events of a group, one for each job. `seqs` has a number for each job, or one number
 * for all jobs.
 */
function eventsOfGroup(group) {
  const { job_ids: jobs, seqs, ...rest } = group ?? {};
  if (!Array.isArray(jobs) || !Array.isArray(seqs)) return [{}];
  if (seqs.length !== 1 && seqs.length !== jobs.length) return [{}];
  return jobs.map((job_id, n) => ({ job_id, seq: seqs[n] ?? seqs[0], ...rest }));
}

/**
 * Whether an event of this type changes fields of the job's row that the event does not contain.
 */
export const needsRow = (type) => type !== "job.progress" && type !== "job.log";

/**
 * Return the job's row after an event. If the row already contains the event (`seq` up to its
 * `last_seq`), nothing changes. A snapshot and a stream may therefore overlap.
 */
export function applyEvent(job, event) {
  if (!job || event.seq <= (job.last_seq ?? 0)) return job;
  const data = event.data ?? {};
  const next = { ...job, last_seq: event.seq, updated_at: event.at ?? job.updated_at };
  if (typeof data.status === "string" && data.status !== job.status) {
    next.status = data.status;
    delete next.state; // the engine derives the state, so the row is read again
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
 * Convert an event to one form. An event from Realtime has `at`, and an event from a row has
 * `created_at`.
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
