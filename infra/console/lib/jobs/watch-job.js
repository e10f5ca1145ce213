// One job: its row, its events in order, and how fresh both are.

import { Follower, later, tell } from "./follower.js";
import { PAGE, unwrap, within } from "./reads.js";
import { applyEvent, ENDED, needsRow, normalizeEvent, Sequence } from "./sequence.js";

/** @import { Client, Job, JobEvent, JobState, JobType, WatchedJob } from "./types.js" */

/**
 * @typedef {object} OwnJobOptions
 * @property {string} [schema] Where the jobs are: `minutehand` unless installed elsewhere.
 * @property {boolean} [history] Also hand out and keep the events that lie in the past.
 * @property {number} [historyLimit] At most so many of them, 2,000 by default.
 * @property {number} [after] Hand out events after this `seq` instead.
 * @property {(event: JobEvent) => void} [onEvent] Each event once, in order; without `history`
 *   those that happen from now on.
 * @property {(jobId: string) => Promise<Job>} [cancel] How to cancel; by RPC if omitted.
 * @property {string} [guestSession] The guest session the job belongs to, for the user it was opened for; its row
 *   has no payload then.
 */
/**
 * @template {JobType} T
 * @typedef {OwnJobOptions & import("./follower.js").Timing &
 *   {onChange?: (state: JobState<T>) => void}} JobOptions `onChange` at most once per frame.
 */

const ROW_DELAY_MS = 30;

/** What a watch rejects with when its job is deleted, or was never visible. */
export class JobGone extends Error {
  /** @param {string} jobId */
  constructor(jobId) {
    super(`job ${jobId} does not exist, or you may not see it`);
    this.name = "JobGone";
  }
}

/** @template {JobType} T */
export class JobWatch extends Follower {
  #client;
  #reads;
  #id;
  #options;
  /** @type {WatchedJob<T> | null} */
  #job = null;
  #missing = false;
  /** @type {Sequence<JobEvent> | null} */
  #sequence = null;
  #heard = 0;
  #rowIsOld = false;
  /** @type {any} */
  #rowTimer = null;
  /** @type {JobEvent[]} */
  #early = []; // came before the first read said where the stream starts
  /** @type {JobEvent[]} */
  #events = [];
  /** @type {ReturnType<typeof promised<Job<T>>> | null} */
  #settled = null;

  /**
   * @param {Client} client
   * @param {import("./reads.js").Reads} reads
   * @param {import("./topics.js").Topics} topics
   * @param {string} id
   * @param {JobOptions<T>} options
   */
  constructor(client, reads, topics, id, options) {
    super(topics, `job:${id}`, options);
    this.#client = client;
    this.#reads = reads;
    this.#id = id;
    this.#options = options;
    const { onChange } = options;
    if (onChange) this.subscribe(() => onChange(this.state));
  }

  /**
   * What is known now.
   *
   * @returns {JobState<T>}
   */
  get state() {
    const job = this.#job;
    const status = job?.status ?? null;
    return {
      job,
      status,
      progress: job?.progress ?? null,
      isCompleted: status === "completed",
      isFailed: status === "failed",
      isEnded: ENDED.has(status),
      error: job?.error_message ?? null,
      freshness: this.freshness,
      missing: this.#missing,
      events: this.#events,
      problem: this.error,
    };
  }

  /**
   * Settles on any end: resolves with the ended row; rejects when the job is gone or unwatched.
   *
   * @returns {Promise<Job<T>>}
   */
  get ended() {
    this.#settled ??= promised();
    this.#settle();
    return this.#settled.promise;
  }

  /**
   * Cancel the job; resolves with its row.
   *
   * @returns {Promise<Job>}
   */
  async cancel() {
    const cancel = this.#options.cancel ?? ((id) => this.#cancelByRpc(id));
    const job = await cancel(this.#id);
    await this.refresh();
    return job;
  }

  get hasGap() {
    if (!this.#sequence) return false;
    return this.#sequence.hasGap || this.#sequence.last < (this.#job?.last_seq ?? 0);
  }

  get isNumbered() {
    return true;
  }

  get heardAll() {
    return this.#heard >= (this.#sequence?.last ?? 0);
  }

  onSynced() {
    this.#heard = Math.max(this.#heard, this.#sequence?.last ?? 0);
  }

  get isLive() {
    return !this.#missing && !ENDED.has(this.#job?.status);
  }

  /** @param {unknown} payload */
  receive(payload) {
    const event = normalizeEvent(payload);
    if (!event || event.job_id !== this.#id) return;
    this.#heard = Math.max(this.#heard, event.seq);
    if (this.#sequence) this.#take(this.#sequence.offer([event]));
    else this.#early.push(event);
  }

  async catchUp() {
    const row = await this.#reads.job(this.#id);
    if (!row) {
      this.#vanish();
      return false;
    }
    this.#missing = false;
    this.#takeRow(row);
    const sequence = this.#sequence ?? this.#begin(row);
    const before = sequence.last;
    while (sequence.last < row.last_seq || sequence.hasGap) {
      const page = await this.#reads.events(this.#id, sequence.last);
      const isLast = page.length < PAGE;
      const events = page.map(normalizeEvent).filter((event) => event !== null);
      this.#take(sequence.offerPage(events, { isLast }));
      if (isLast) break;
    }
    if (this.#rowIsOld) this.#takeRow(await this.#reads.job(this.#id));
    this.#settle();
    return sequence.last > before;
  }

  onClose() {
    clearTimeout(this.#rowTimer);
    this.#settled?.promise.catch(() => {}); // who closed the watch knows it
    this.#settled?.reject(new Error("the watch was closed"));
  }

  /**
   * @param {Job} row
   * @returns {Sequence<JobEvent>}
   */
  #begin(row) {
    const { history, historyLimit = 2000 } = this.#options;
    const known = history ? Math.max(0, row.last_seq - historyLimit) : row.last_seq;
    /** @type {Sequence<JobEvent>} */
    const sequence = new Sequence(this.#options.after ?? known);
    this.#sequence = sequence;
    this.#take(sequence.offer(this.#early.splice(0)));
    return sequence;
  }

  /** @param {Job | null} row */
  #takeRow(row) {
    if (!row) return this.#vanish();
    if (this.#job && row.last_seq < this.#job.last_seq) return;
    this.#rowIsOld = false;
    clearTimeout(this.#rowTimer);
    const waiting = row.status === "waiting" ? (this.#job?.waiting_for ?? null) : null;
    this.#job = /** @type {WatchedJob<T>} */ ({ ...row, waiting_for: waiting });
  }

  /** @param {JobEvent[]} events */
  #take(events) {
    if (events.length === 0) return;
    for (const event of events) {
      if (event.seq > (this.#job?.last_seq ?? 0) && needsRow(event.type)) this.#rowIsOld = true;
      this.#job = applyEvent(this.#job, event);
      if (event.type === "job.waiting" && this.#job?.last_seq === event.seq) {
        this.#job.waiting_for = event.data.wait;
      }
      tell(this.#options.onEvent, event);
    }
    if (this.#options.history) this.#events = this.#events.concat(events);
    if (this.#rowIsOld) this.#readRowSoon();
    this.notify();
  }

  #readRowSoon() {
    clearTimeout(this.#rowTimer);
    this.#rowTimer = later(() => this.refresh(), ROW_DELAY_MS);
  }

  #vanish() {
    this.#missing = true;
    this.notify();
    this.#settled?.reject(new JobGone(this.#id));
  }

  #settle() {
    if (!this.#settled) return;
    if (this.#missing) this.#settled.reject(new JobGone(this.#id));
    else if (this.#job && ENDED.has(this.#job.status) && !this.#rowIsOld)
      this.#settled.resolve(this.#job);
  }

  /**
   * @param {string} id
   * @returns {Promise<Job>}
   */
  #cancelByRpc(id) {
    return unwrap(within(this.#client, this.#options.schema).rpc("cancel_job", { p_job_id: id }));
  }
}

/**
 * A promise with its own ends, as `Promise.withResolvers` of newer runtimes.
 *
 * @template R
 * @returns {{promise: Promise<R>, resolve: (value: R) => void, reject: (error: Error) => void}}
 */
function promised() {
  /** @type {any} */
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}
