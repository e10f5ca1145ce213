// Follows one job, with the job's row, events and output.

import { call, readOnce, inSchema } from "./client.js";
import { ENDED } from "./ended.js";
import { Follower } from "./follower.js";
import { later, notify } from "./page.js";
import { sessionOf } from "./session.js";

const PAGE = 500;
const ROW_DELAY_MS = 30;
const NO_OUTPUT = {};

/** Error for a job that was deleted, or that the caller is not allowed to see. */
export class JobGone extends Error {
  constructor(jobId) {
    super(`job ${jobId} does not exist, or you may not see it`);
    this.name = "JobGone";
    this.code = "job_not_found";
  }
}

/** Return the state that a watch of a job reports to the page. */
export function stateOf(job, known = {}) {
  const status = job?.status ?? null;
  return {
    job,
    status,
    progress: job?.progress ?? null,
    isCompleted: status === "completed",
    isFailed: status === "failed",
    isCancelled: status === "cancelled",
    isEnded: ENDED.has(status),
    isCancelling: Boolean(job?.cancel_requested_at) && !ENDED.has(status),
    isLoading: false,
    error: job?.error_message ?? null,
    output: {},
    freshness: "catching-up",
    missing: false,
    events: [],
    problem: null,
    ...known,
  };
}

/**
 * Watch of one job. The watch contains the job's row, its events in order and its output, and
 * reports how fresh this data is.
 */
class JobWatch extends Follower {
  #client;
  #id;
  #options;
  #job = null; // the last row with the later events applied
  #whole = null; // the row to show: it has ended only once the result is known
  #missing = false;
  #sequence = null;
  #received = 0;
  #rowIsOld = false;
  #rowTimer = null;
  #early = []; // messages that arrived before the first read
  #live; // the modules that are loaded on demand
  #delivered = null; // `seq` of the last delivered event
  #events = [];
  #output = null; // null until the job has output, because most jobs have none
  #shown = NO_OUTPUT; // the output of the last call of `onOutput`
  #settled = null;
  #endedAt = null; // `finished_at` of the last end for which `onEnd` was called

  constructor(client, id, options) {
    const { session_id: session } = options;
    super(sessionOf(client), session ? `session:${session}` : `job:${id}`, options);
    this.#client = client;
    this.#id = id;
    this.#options = options;
    const { onChange, onOutput } = options;
    if (onOutput) this.subscribe(() => this.#showOutput());
    if (onChange) this.subscribe(() => onChange(this.state));
  }

  /** Current state of the watch, which a page shows. */
  get state() {
    const { freshness, error: problem } = this;
    const output = this.#content;
    const known = { freshness, problem, missing: this.#missing, events: this.#events, output };
    const isLoading = !this.#whole && !this.#missing && !problem;
    return stateOf(this.#whole, { ...known, isLoading });
  }

  /**
   * Promise of the job's row after the job has ended. The promise rejects if the job was deleted or
   * the watch was closed.
   */
  get ended() {
    this.#settled ??= deferred();
    this.#settle();
    return this.#settled.promise;
  }

  get hasGap() {
    if (!this.#sequence) return false;
    if (this.#output?.hasGap) return true;
    return this.#sequence.hasGap || this.#sequence.last < (this.#job?.last_seq ?? 0);
  }

  get isNumbered() {
    return true;
  }

  get receivedAll() {
    return this.#received >= (this.#sequence?.last ?? 0) && this.#output?.isReceived !== false;
  }

  onSynced() {
    this.#output?.markReceived();
    this.#received = Math.max(this.#received, this.#sequence?.last ?? 0);
  }

  get isLive() {
    return !this.#missing && !ENDED.has(this.#job?.status);
  }

  receive(payload) {
    if (this.#output && payload?.type === "job.output" && payload.job_id === this.#id)
      return void this.#addOutput([payload.data], { isMessage: true });
    if (!this.#sequence) return void this.#early.push(payload);
    const event = this.#live.normalizeEvent(payload);
    if (!event) return void this.refresh(); // the event can be read from the database
    if (event.job_id !== this.#id) return;
    this.#received = Math.max(this.#received, event.seq);
    this.#applyEvents(this.#sequence.offer([event]));
  }

  async catchUp() {
    const row = await this.#row();
    if (!row) return false;
    const hasOutput = await this.#readOutput(row); // before the end is shown
    this.#takeRow(row);
    this.#live ??= await import("./live.js");
    const sequence = this.#sequence ?? this.#begin(row);
    const before = sequence.last;
    while (sequence.last < row.last_seq || sequence.hasGap) {
      const page = await this.#eventsAfter(sequence.last);
      const isLast = page.length < PAGE;
      const events = page.map(this.#live.normalizeEvent).filter((event) => event !== null);
      this.#applyEvents(sequence.offerPage(events, { isLast }));
      if (isLast) break;
    }
    if (this.#rowIsOld) {
      const again = await this.#row();
      await this.#readOutput(again);
      this.#takeRow(again);
    }
    this.#settle();
    return hasOutput || sequence.last > before;
  }

  clear() {
    clearTimeout(this.#rowTimer);
    this.#job = this.#whole = this.#sequence = null;
    this.#missing = this.#rowIsOld = false;
    this.#early = [];
    this.#events = [];
    this.#received = 0;
    this.#output = null;
    notify(this.#options.onClear);
  }

  onClose() {
    clearTimeout(this.#rowTimer);
    this.#settled?.promise.catch(() => {}); // no warning of an unhandled rejection
    this.#settle();
  }

  #begin(row) {
    const { history, historyLimit = 2000 } = this.#options;
    const known = history
      ? Math.max(0, row.last_seq - historyLimit)
      : (this.#delivered ?? row.last_seq);
    const sequence = new this.#live.Sequence(this.#options.after ?? known);
    this.#delivered ??= sequence.last;
    this.#sequence = sequence;
    for (const payload of this.#early.splice(0)) this.receive(payload);
    return sequence;
  }

  #takeRow(row) {
    if (!row) return;
    if (this.#job && row.last_seq < this.#job.last_seq) return;
    this.#rowIsOld = false;
    clearTimeout(this.#rowTimer);
    this.#job = this.#whole = row;
  }

  /**
   * Read the job's row, with the fields that the database derives. Return null if the job does not
   * exist or the caller may not see the job.
   */
  async #row() {
    const isWhole = (row) => row?.id === this.#id && Number.isInteger(row.last_seq);
    try {
      const name = this.#options.session_id ? "guest_job" : "get_job";
      const row = await this.#call(name, this.#guest, isWhole);
      this.#missing = false;
      return row;
    } catch (error) {
      const isGone = (error.isRefusal && error.status === 404) || error.code === "22P02";
      if (!isGone) throw error;
      this.#onGone();
      return null;
    }
  }

  /** Parameters of a database call by a guest, who gets access by the session id of the job. */
  get #guest() {
    const { session_id: session } = this.#options;
    return session ? { p_session_id: session } : {};
  }

  /** Call a database function for this job through the Data API. */
  #call(name, values, isWhole) {
    const parameters = { p_job_id: this.#id, ...values };
    return this.read((signal) =>
      call(this.#client, this.#options.schema, name, parameters, { isWhole, signal }),
    );
  }

  /** Read one page of the job's events, in the order of `seq`. */
  async #eventsAfter(seq) {
    if (this.#options.session_id) {
      const isWhole = (found) => Array.isArray(found?.events);
      return (await this.#call("guest_job", { ...this.#guest, p_after: seq }, isWhole)).events;
    }
    const page = () =>
      inSchema(this.#client, this.#options.schema)
        .from("job_events")
        .select("job_id,seq,type,data,created_at")
        .eq("job_id", this.#id)
        .gt("seq", seq)
        .order("seq", { ascending: true })
        .limit(PAGE);
    return this.read((signal) => readOnce(page(), { isWhole: Array.isArray, signal }));
  }

  /**
   * Read output from the database until this watch has all output up to the ends in `row.streams`.
   * Return whether a read returned new output.
   */
  async #readOutput(row) {
    const isWhole = (found) => Array.isArray(found?.streams);
    if (!this.#output && Object.keys(row?.streams ?? {}).length === 0) return false;
    if (!this.#output) {
      const { Output } = await import("./output.js");
      this.#output ??= new Output(this.#options.knownOutput);
    }
    let hasOutput = false;
    while (this.#output.hasGap || this.#output.isBehind(row?.streams)) {
      const { ends } = this.#output;
      const parameters = { ...this.#guest, p_after: ends };
      const { streams } = await this.#call("job_output", parameters, isWhole);
      const isNew = this.#addOutput(streams);
      hasOutput ||= isNew;
      // Continue if the ends have changed, because messages may have delivered the output in this
      // response although later output is still missing.
      if (!isNew && JSON.stringify(this.#output.ends) === JSON.stringify(ends)) break;
    }
    return hasOutput;
  }

  /** Add pieces to the job's output. Return whether one of the pieces contained new content. */
  #addOutput(pieces, options) {
    const ready = pieces.flatMap((piece) => this.#output.add(piece, options));
    for (const piece of ready) notify(this.#options.onPiece, piece);
    if (ready.length > 0) this.notify();
    return ready.length > 0;
  }

  get #content() {
    return this.#output?.content ?? NO_OUTPUT;
  }

  #showOutput() {
    const content = this.#content;
    if (content === this.#shown) return;
    this.#shown = content;
    notify(this.#options.onOutput, content);
  }

  #applyEvents(events) {
    if (events.length === 0 || this.closed) return;
    const { applyEvent, needsRow } = this.#live;
    for (const event of events) {
      if (event.seq > (this.#job?.last_seq ?? 0) && needsRow(event.type)) this.#rowIsOld = true;
      this.#job = applyEvent(this.#job, event);
      if (event.seq <= (this.#delivered ?? 0)) continue; // a new read repeats events
      this.#delivered = event.seq;
      notify(this.#options.onEvent, event);
    }
    if (!this.#rowIsOld || !ENDED.has(this.#job?.status)) this.#whole = this.#job;
    if (this.#options.history) this.#events = this.#events.concat(events);
    if (this.#rowIsOld) this.#readRowSoon();
    this.notify();
  }

  #readRowSoon() {
    clearTimeout(this.#rowTimer);
    const wait = ENDED.has(this.#job?.status) ? 0 : ROW_DELAY_MS;
    this.#rowTimer = later(() => this.refresh(), wait);
  }

  #onGone() {
    if (!this.#missing) this.revoke();
    this.#missing = true;
    this.notify();
    this.#settled?.reject(new JobGone(this.#id));
  }

  #settle() {
    if (this.#missing) return void this.#settled?.reject(new JobGone(this.#id));
    const job = this.#job;
    const isOver = ENDED.has(job?.status) && !this.#rowIsOld;
    if (isOver && !this.closed) this.#showOutput(); // before `onEnd`, which may close the watch
    if (isOver) this.#settled?.resolve(job);
    else if (this.closed) this.#settled?.reject(new Error("the watch was closed"));
    // do not call `onEnd` if the page has closed the watch
    if (!isOver || this.closed || this.#endedAt === job.finished_at) return;
    this.#endedAt = job.finished_at;
    notify(this.#options.onEnd, job);
  }
}

/**
 * Return a promise with its functions `resolve` and `reject`, like `Promise.withResolvers` in newer
 * runtimes.
 */
function deferred() {
  const handle = {};
  handle.promise = new Promise((resolve, reject) => Object.assign(handle, { resolve, reject }));
  return handle;
}

/**
 * Follow one job. The returned watch has `state`, `ended`, `subscribe()`, `refresh()` and
 * `close()`. A guest passes the option `session_id` of the job, which grants access.
 */
export function watchJob(client, jobId, options = {}) {
  const watch = new JobWatch(client, jobId, options);
  watch.start();
  return watch;
}
