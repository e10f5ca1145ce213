// One job's events in their order, and what an event says about its job. Pure: no I/O, no clock.
// Its counterpart in Python is minutehand.client.sequence; both pass tests/fixtures/sequence.json.

/** @import { Job, JobEvent, WatchedJob } from "./types.js" */

/**
 * Statuses a job does not leave by itself.
 *
 * @type {ReadonlySet<string | null | undefined>}
 */
export const ENDED = new Set(["completed", "failed", "cancelled"]);

/** Events kept back while an earlier one is missing; beyond this they are read again instead. */
const MOST_WAITING = 1000;

/**
 * Hands out one job's events by their gapless `seq`: in order, none twice, none missing.
 *
 * What comes too early waits; `hasGap` says that something is missing and must be read.
 *
 * @template {{seq: number}} E
 */
export class Sequence {
  #next;
  /** @type {Map<number, E>} */
  #waiting = new Map();
  #dropped = false;

  /** @param {number} after The last `seq` that is known already. */
  constructor(after = 0) {
    this.#next = after + 1;
  }

  /** The last `seq` delivered. */
  get last() {
    return this.#next - 1;
  }

  /** Whether a later event is here while an earlier one is not. */
  get hasGap() {
    return this.#waiting.size > 0 || this.#dropped;
  }

  /**
   * Take events as they arrive, in any order and any number of times.
   *
   * @param {E[]} events
   * @returns {E[]} Those that can be handed out now, in order.
   */
  offer(events) {
    /** @type {E[]} */
    const ready = [];
    for (const event of events) {
      if (!Number.isSafeInteger(event?.seq) || event.seq < this.#next) continue;
      if (event.seq === this.#next) ready.push(...this.#advance(event));
      else if (this.#waiting.size < MOST_WAITING) this.#waiting.set(event.seq, event);
      else this.#dropped = true;
    }
    return ready;
  }

  /**
   * Take a page of the database: every event after one of ours, in order.
   *
   * The database lacks no event but those that retention took, so a hole in it is skipped.
   *
   * @param {E[]} page
   * @param {{isLast: boolean}} options Whether the page ends with the latest event.
   * @returns {E[]} Those that can be handed out now, in order.
   */
  offerPage(page, { isLast }) {
    /** @type {E[]} */
    const ready = [];
    for (const event of page) if (event.seq >= this.#next) ready.push(...this.#advance(event));
    if (isLast) this.#dropped = false;
    return ready;
  }

  /** @param {E} event The next one to hand out. */
  #advance(event) {
    const ready = [event];
    this.#next = event.seq + 1;
    for (let next; (next = this.#waiting.get(this.#next)); this.#next += 1) ready.push(next);
    for (const seq of this.#waiting.keys()) if (seq < this.#next) this.#waiting.delete(seq);
    return ready;
  }
}

/** What `follow_topic` is passed: messages may group events that differ in their job alone. */
export const MESSAGE_VERSION = 2;

/**
 * The events of one message of a topic: several in order, or the one that it is itself.
 *
 * @param {any} payload
 * @returns {any[]}
 */
export function eventsOf(payload) {
  if (Array.isArray(payload?.groups)) return payload.groups.flatMap(eventsOfGroup);
  return Array.isArray(payload?.events) ? payload.events : [payload];
}

/**
 * One event for each job of a group, whose numbers are one each or one for all.
 *
 * @param {any} group
 */
function eventsOfGroup(group) {
  const { job_ids: jobs, seqs, ...rest } = group ?? {};
  if (!Array.isArray(jobs) || !Array.isArray(seqs)) return [{}];
  if (seqs.length !== 1 && seqs.length !== jobs.length) return [{}];
  return jobs.map((job_id, n) => ({ job_id, seq: seqs[n] ?? seqs[0], ...rest }));
}

/** Events after which the row holds more than the event: a result, an error, a schedule. */
const NEEDS_ROW = new Set([
  "job.completed",
  "job.failed",
  "job.cancelled",
  "job.retried",
  "job.snoozed",
  "job.released",
  "job.reclaimed",
  "job.redriven",
  "job.replaced",
  "job.edited",
]);

/**
 * Whether the row should be read again after an event of this type.
 *
 * @param {string} type
 */
export const needsRow = (type) => NEEDS_ROW.has(type);

/**
 * The job after an event. Events that the row already contains (`seq` up to its `last_seq`)
 * change nothing, so a snapshot and a stream may overlap in any way.
 *
 * @template {Partial<Omit<WatchedJob, "payload" | "result" | "job_type">> | null} R
 * @param {R} job A row of `jobs`.
 * @param {JobEvent} event
 * @returns {R} A new row, or the same one when nothing changed.
 */
export function applyEvent(job, event) {
  if (!job || event.seq <= (job.last_seq ?? 0)) return job;
  /** @type {any} */
  const data = event.data ?? {};
  const next = { ...job, last_seq: event.seq, updated_at: event.at ?? job.updated_at };
  if (typeof data.status === "string") next.status = data.status;
  if (Number.isInteger(data.attempts)) next.attempts = data.attempts;
  if (data.progress && typeof data.progress === "object") next.progress = data.progress;
  if (typeof data.error_message === "string") next.error_message = data.error_message;
  next.next_retry_at = "next_retry_at" in data ? data.next_retry_at : nextRetry(job, event);
  next.waiting_for = event.type === "job.waiting" ? (data.wait ?? null) : keptWait(job, next);
  if (event.type === "job.leased") next.started_at = job.started_at ?? event.at;
  if (event.type === "job.cancel_requested") next.cancel_requested_at = event.at;
  if (event.type === "job.redriven")
    Object.assign(next, { result: null, cancel_requested_at: null, scheduled_for: null });
  next.finished_at = ENDED.has(next.status) ? (job.finished_at ?? event.at) : null;
  next.completed_at = next.status === "completed" ? next.finished_at : null;
  return next;
}

/** @type {(job: Partial<Job>, event: JobEvent) => string | null | undefined} */
const nextRetry = (job, { type }) =>
  type === "job.progress" || type === "job.log" ? job.next_retry_at : null;
/** @type {(job: Partial<WatchedJob>, next: Partial<WatchedJob>) => WatchedJob["waiting_for"]} */
const keptWait = (job, next) => (next.status === "waiting" ? (job.waiting_for ?? null) : null);

/**
 * An event in one shape, whether it came as a Realtime frame (`at`) or as a row (`created_at`).
 *
 * @param {any} raw
 * @returns {JobEvent | null} null for any other frame.
 */
export function normalizeEvent(raw) {
  if (typeof raw?.type !== "string") return null;
  const seq = Number(raw.seq);
  if (!Number.isSafeInteger(seq) || typeof raw.job_id !== "string") return null;
  return {
    job_id: raw.job_id,
    seq,
    type: raw.type,
    data: raw.data ?? {},
    at: raw.at ?? raw.created_at,
  };
}
