// One job's events in their order, and what an event says about its job. Pure: no I/O, no clock.

/** Statuses a job does not leave by itself. */
export const ENDED = new Set(["completed", "failed", "cancelled"]);

/** Events kept back while an earlier one is missing; beyond this they are read again instead. */
const MAX_WAITING = 1000;

/**
 * Hands out one job's events by their gapless `seq`: in order, none twice, none missing.
 *
 * What comes too early waits; `hasGap` says that something is missing and must be read.
 */
export class Sequence {
  #next;
  #waiting = new Map();
  #dropped = false;

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

  /** Take events as they arrive, in any order and any number of times. */
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
   * Take a page of the database: every event after one of ours, in order.
   *
   * The database lacks no event but those that retention took, so a hole in it is skipped.
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
 * The events of one message of a topic: several in order, in groups those that differ in their job
 * alone, or the one that it is itself.
 */
export function eventsOf(payload) {
  if (Array.isArray(payload?.groups)) return payload.groups.flatMap(eventsOfGroup);
  return Array.isArray(payload?.events) ? payload.events : [payload];
}

/** One event for each job of a group, whose numbers are one each or one for all. */
function eventsOfGroup(group) {
  const { job_ids: jobs, seqs, ...rest } = group ?? {};
  if (!Array.isArray(jobs) || !Array.isArray(seqs)) return [{}];
  if (seqs.length !== 1 && seqs.length !== jobs.length) return [{}];
  return jobs.map((job_id, n) => ({ job_id, seq: seqs[n] ?? seqs[0], ...rest }));
}

/** Whether the row holds more after an event of this type than the event says. */
export const needsRow = (type) => type !== "job.progress" && type !== "job.log";

/**
 * The job after an event. Events that the row already contains (`seq` up to its `last_seq`)
 * change nothing, so a snapshot and a stream may overlap in any way.
 */
export function applyEvent(job, event) {
  if (!job || event.seq <= (job.last_seq ?? 0)) return job;
  const data = event.data ?? {};
  const next = { ...job, last_seq: event.seq, updated_at: event.at ?? job.updated_at };
  if (typeof data.status === "string" && data.status !== job.status) {
    next.status = data.status;
    delete next.state; // the engine derives it: the row is read again
  }
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

const nextRetry = (job, { type }) =>
  type === "job.progress" || type === "job.log" ? job.next_retry_at : null;
const keptWait = (job, next) => (next.status === "waiting" ? (job.waiting_for ?? null) : null);

/** An event in one shape, whether it came as a Realtime frame (`at`) or as a row (`created_at`). */
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
