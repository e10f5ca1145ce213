// One job: its row, its events in order, and how fresh both are.

import { Follower } from "./follower.js";
import { PAGE } from "./reads.js";
import { applyEvent, ENDED, needsRow, normalizeEvent, Sequence } from "./sequence.js";

const ROW_DELAY_MS = 30;

/** What a watch rejects with when its job is deleted, or was never visible. */
export class JobGone extends Error {
  constructor(jobId) {
    super(`job ${jobId} is gone, or not yours to see`);
    this.name = "JobGone";
  }
}

export class JobWatch extends Follower {
  #client;
  #reads;
  #id;
  #options;
  #job = null;
  #missing = false;
  #sequence = null;
  #heard = 0;
  #rowIsOld = false;
  #rowTimer = null;
  #early = []; // came before the first read said where the stream starts
  #events = [];
  #settled = null;

  constructor(client, reads, topics, id, options) {
    super(topics, `job:${id}`, options);
    this.#client = client;
    this.#reads = reads;
    this.#id = id;
    this.#options = options;
    if (options.onChange) this.subscribe(() => options.onChange(this.state));
  }

  /**
   * What is known now.
   *
   * @returns {{job: object|null, status: string|null, progress: object|null, isCompleted: boolean,
   *   isFailed: boolean, isEnded: boolean, error: string|null, freshness: string, missing: boolean,
   *   events: object[], problem: Error|null}} `events` only with `history`; `error` is the job's
   *   own, `problem` why reading it fails.
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

  /** Settles on any end: resolves with the ended row; rejects when the job is gone or unwatched. */
  get ended() {
    if (!this.#settled) {
      this.#settled = Promise.withResolvers();
      this.#settle();
    }
    return this.#settled.promise;
  }

  /** Cancel the job; resolves with its row. */
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

  get heardAll() {
    return !this.#sequence || this.#heard >= this.#sequence.last;
  }

  onSynced() {
    this.#heard = Math.max(this.#heard, this.#sequence?.last ?? 0);
  }

  get isLive() {
    return !this.#missing && !ENDED.has(this.#job?.status);
  }

  receive(payload) {
    const event = normalizeEvent(payload);
    if (!event || event.job_id !== this.#id) return;
    this.#heard = Math.max(this.#heard, event.seq);
    if (this.#sequence) this.#take(this.#sequence.offer([event]));
    else this.#early.push(event);
  }

  async catchUp() {
    const row = await this.#reads.job(this.#id);
    if (!row) return this.#vanish();
    this.#missing = false;
    this.#takeRow(row);
    if (!this.#sequence) this.#begin(row);
    for (;;) {
      const page = await this.#reads.events(this.#id, this.#sequence.last, PAGE);
      const events = page.map(normalizeEvent).filter(Boolean);
      this.#take(this.#sequence.offer(events));
      if (page.length < PAGE) break;
    }
    this.#sequence.wasReadToTheEnd();
    if (this.#rowIsOld) this.#takeRow(await this.#reads.job(this.#id));
    this.#settle();
  }

  onClose() {
    clearTimeout(this.#rowTimer);
    this.#settled?.promise.catch(() => {}); // an unwatched job is no news to whoever closed it
    this.#settled?.reject(new Error("the watch was closed"));
  }

  #begin(row) {
    const { history, historyLimit = 2000 } = this.#options;
    const known = history ? Math.max(0, row.last_seq - historyLimit) : row.last_seq;
    this.#sequence = new Sequence(this.#options.after ?? known);
    if (!history && this.#heard === 0) this.#heard = row.last_seq;
    this.#heard = Math.max(this.#heard, this.#sequence.last);
    this.#take(this.#sequence.offer(this.#early.splice(0)));
  }

  #takeRow(row) {
    if (!row) return this.#vanish();
    if (this.#job && row.last_seq < this.#job.last_seq) return;
    this.#rowIsOld = false;
    clearTimeout(this.#rowTimer);
    const waiting = row.status === "waiting" ? (this.#job?.waiting_for ?? null) : null;
    this.#job = { ...row, waiting_for: waiting };
  }

  #take(events) {
    if (events.length === 0) return;
    for (const event of events) {
      if (event.seq > (this.#job?.last_seq ?? 0) && needsRow(event.type)) this.#rowIsOld = true;
      this.#job = applyEvent(this.#job, event);
      if (event.type === "job.waiting" && this.#job?.last_seq === event.seq) this.#job.waiting_for = event.data.wait;
      this.#options.onEvent?.(event);
    }
    if (this.#options.history) this.#events = this.#events.concat(events);
    if (this.#rowIsOld) this.#readRowSoon();
    this.notify();
  }

  #readRowSoon() {
    clearTimeout(this.#rowTimer);
    this.#rowTimer = setTimeout(() => this.refresh(), ROW_DELAY_MS);
    this.#rowTimer.unref?.();
  }

  #vanish() {
    this.#missing = true;
    this.notify();
    this.#settled?.reject(new JobGone(this.#id));
  }

  #settle() {
    if (!this.#settled) return;
    if (this.#missing) this.#settled.reject(new JobGone(this.#id));
    else if (ENDED.has(this.#job?.status) && !this.#rowIsOld) this.#settled.resolve(this.#job);
  }

  async #cancelByRpc(id) {
    const { data, error } = await this.#client.rpc("cancel_job", { p_job_id: id });
    if (error) throw Object.assign(new Error(error.message), { code: error.hint ?? error.code });
    return data;
  }
}
