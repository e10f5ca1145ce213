// One job followed: its row, its events and what its streams say.

import { call, readOnce, inSchema } from "./client.js";
import { Follower } from "./follower.js";
import { Output } from "./output.js";
import { later, notify } from "./page.js";
import { applyEvent, ENDED, needsRow, normalizeEvent, Sequence } from "./sequence.js";
import { sessionOf } from "./session.js";

const PAGE = 500;
const ROW_DELAY_MS = 30;

/** What a watch rejects with when its job is deleted, or was never visible. */
export class JobGone extends Error {
  constructor(jobId) {
    super(`job ${jobId} does not exist, or you may not see it`);
    this.name = "JobGone";
    this.code = "job_not_found";
  }
}

/** What a job's followers receive. */
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

/** One job: its row, its events in order, what its streams say, and how fresh all are. */
class JobWatch extends Follower {
  #client;
  #id;
  #options;
  #job = null; // as the last read and the events since say
  #whole = null; // as it is shown: an end comes with the row that has its result
  #missing = false;
  #sequence = null;
  #received = 0;
  #rowIsOld = false;
  #rowTimer = null;
  #early = []; // came before the first read said where the stream starts
  #delivered = null; // the `seq` of the last event that was handed out
  #events = [];
  #output;
  #shown; // of the output, by `onOutput`
  #settled = null;
  #endedAt = null; // the run whose end was announced

  constructor(client, id, options) {
    const { session_id: session } = options;
    super(sessionOf(client), session ? `session:${session}` : `job:${id}`, options);
    this.#client = client;
    this.#id = id;
    this.#options = options;
    this.#output = new Output(options.said);
    this.#shown = this.#output.said;
    const { onChange, onOutput } = options;
    if (onOutput) this.subscribe(() => this.#showOutput());
    if (onChange) this.subscribe(() => onChange(this.state));
  }

  /** What is known now. */
  get state() {
    const { freshness, error: problem } = this;
    const output = this.#output.said;
    const known = { freshness, problem, missing: this.#missing, events: this.#events, output };
    const isLoading = !this.#whole && !this.#missing && !problem;
    return stateOf(this.#whole, { ...known, isLoading });
  }

  /** Settles on any end: resolves with the ended row; rejects when the job is gone or unwatched. */
  get ended() {
    this.#settled ??= deferred();
    this.#settle();
    return this.#settled.promise;
  }

  get hasGap() {
    if (!this.#sequence) return false;
    if (this.#output.hasGap) return true;
    return this.#sequence.hasGap || this.#sequence.last < (this.#job?.last_seq ?? 0);
  }

  get isNumbered() {
    return true;
  }

  get receivedAll() {
    return this.#received >= (this.#sequence?.last ?? 0) && this.#output.isReceived;
  }

  onSynced() {
    this.#output.markReceived();
    this.#received = Math.max(this.#received, this.#sequence?.last ?? 0);
  }

  get isLive() {
    return !this.#missing && !ENDED.has(this.#job?.status);
  }

  receive(payload) {
    if (payload?.type === "job.output" && payload.job_id === this.#id)
      return void this.#takeOutput([payload.data], { isMessage: true });
    const event = normalizeEvent(payload);
    if (!event) return void this.refresh(); // what it was is in the database
    if (event.job_id !== this.#id) return;
    this.#received = Math.max(this.#received, event.seq);
    if (this.#sequence) this.#take(this.#sequence.offer([event]));
    else this.#early.push(event);
  }

  async catchUp() {
    const row = await this.#row();
    if (!row) return false;
    const isSaid = await this.#readOutput(row); // before the row: an end comes with the last words
    this.#takeRow(row);
    const sequence = this.#sequence ?? this.#begin(row);
    const before = sequence.last;
    while (sequence.last < row.last_seq || sequence.hasGap) {
      const page = await this.#eventsAfter(sequence.last);
      const isLast = page.length < PAGE;
      const events = page.map(normalizeEvent).filter((event) => event !== null);
      this.#take(sequence.offerPage(events, { isLast }));
      if (isLast) break;
    }
    if (this.#rowIsOld) {
      const again = await this.#row();
      await this.#readOutput(again);
      this.#takeRow(again);
    }
    this.#settle();
    return isSaid || sequence.last > before;
  }

  forget() {
    clearTimeout(this.#rowTimer);
    this.#job = this.#whole = this.#sequence = null;
    this.#missing = this.#rowIsOld = false;
    this.#early = [];
    this.#events = [];
    this.#received = 0;
    this.#output = new Output(this.#options.said);
  }

  onClose() {
    clearTimeout(this.#rowTimer);
    this.#settled?.promise.catch(() => {}); // who closed the watch knows it
    this.#settle();
  }

  #begin(row) {
    const { history, historyLimit = 2000 } = this.#options;
    const known = history
      ? Math.max(0, row.last_seq - historyLimit)
      : (this.#delivered ?? row.last_seq);
    const sequence = new Sequence(this.#options.after ?? known);
    this.#delivered ??= sequence.last;
    this.#sequence = sequence;
    this.#take(sequence.offer(this.#early.splice(0)));
    return sequence;
  }

  #takeRow(row) {
    if (!row) return;
    if (this.#job && row.last_seq < this.#job.last_seq) return;
    this.#rowIsOld = false;
    clearTimeout(this.#rowTimer);
    this.#job = this.#whole = row;
  }

  /** The job with what the engine derives of it; null when it is missing or another's. */
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
      this.#vanish();
      return null;
    }
  }

  /** What a guest names, whose key is the session of the job. */
  get #guest() {
    const { session_id: session } = this.#options;
    return session ? { p_session_id: session } : {};
  }

  /** What one of our functions answers of this job. */
  #call(name, values, isWhole) {
    const asked = { p_job_id: this.#id, ...values };
    return this.read((signal) =>
      call(this.#client, this.#options.schema, name, asked, { isWhole, signal }),
    );
  }

  /** A page of events in order. */
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

  /** Read what the streams have said, as far as the row says that there is more; whether it was. */
  async #readOutput(row) {
    const isWhole = (found) => Array.isArray(found?.streams);
    let isSaid = false;
    while (this.#output.hasGap || this.#output.lacks(row?.streams)) {
      const { ends } = this.#output;
      const asked = { ...this.#guest, p_after: ends };
      const { streams } = await this.#call("job_output", asked, isWhole);
      const isNew = this.#takeOutput(streams);
      isSaid ||= isNew;
      // messages may have brought meanwhile what the answer has, and not what is behind it
      if (!isNew && JSON.stringify(this.#output.ends) === JSON.stringify(ends)) break;
    }
    return isSaid;
  }

  /** Take pieces; whether there was anything new in them. */
  #takeOutput(pieces, options) {
    const ready = pieces.flatMap((piece) => this.#output.take(piece, options));
    for (const piece of ready) notify(this.#options.onPiece, piece);
    if (ready.length > 0) this.notify();
    return ready.length > 0;
  }

  #showOutput() {
    const { said } = this.#output;
    if (said === this.#shown) return;
    this.#shown = said;
    notify(this.#options.onOutput, said);
  }

  #take(events) {
    if (events.length === 0 || this.closed) return;
    for (const event of events) {
      if (event.seq > (this.#job?.last_seq ?? 0) && needsRow(event.type)) this.#rowIsOld = true;
      this.#job = applyEvent(this.#job, event);
      if (event.seq <= (this.#delivered ?? 0)) continue; // to another user, or before a refusal
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

  #vanish() {
    if (!this.#missing) this.refuse();
    this.#missing = true;
    this.notify();
    this.#settled?.reject(new JobGone(this.#id));
  }

  #settle() {
    if (this.#missing) return void this.#settled?.reject(new JobGone(this.#id));
    const job = this.#job;
    const isOver = ENDED.has(job?.status) && !this.#rowIsOld;
    if (isOver && !this.closed) this.#showOutput(); // who closes the watch at the end has the last words
    if (isOver) this.#settled?.resolve(job);
    else if (this.closed) this.#settled?.reject(new Error("the watch was closed"));
    // a read that was under way at the close is for no one
    if (!isOver || this.closed || this.#endedAt === job.finished_at) return;
    this.#endedAt = job.finished_at;
    notify(this.#options.onEnd, job);
  }
}

/** A promise with its own ends, as `Promise.withResolvers` of newer runtimes. */
function deferred() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}

/**
 * Follow one job: `.state .ended .subscribe() .refresh() .close()`. A guest names its session by
 * `session_id`, whose id is their key.
 */
export function watchJob(client, jobId, options = {}) {
  const watch = new JobWatch(client, jobId, options);
  watch.start();
  return watch;
}
