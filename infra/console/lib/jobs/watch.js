// What can be followed: a job with its events, jobs as they are now, or that something changed.

import { call, once, within } from "./client.js";
import { Follower } from "./follower.js";
import { Output } from "./output.js";
import { later, notify } from "./page.js";
import { applyEvent, ENDED, needsRow, normalizeEvent, Sequence } from "./sequence.js";
import { sessionOf } from "./session.js";

const PAGE = 500;
const REORDER_MS = 400; // between reads of a topic where much happens
const PROGRESS_MS = 2000; // a workspace's topic carries no progress: it is read while jobs run
const ROW_DELAY_MS = 30;
const MOST_ENDS = 200; // that one read of a list gives

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
export class JobWatch extends Follower {
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
    super(sessionOf(client), `job:${id}`, options);
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
    this.#settled ??= promised();
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
      const { schema } = this.#options;
      const asked = { p_job_id: this.#id };
      const row = await this.read((signal) =>
        call(this.#client, schema, "get_job", asked, { isWhole, signal }),
      );
      this.#missing = false;
      return row;
    } catch (error) {
      const isGone = (error.isRefusal && error.status === 404) || error.code === "22P02";
      if (!isGone) throw error;
      this.#vanish();
      return null;
    }
  }

  /** A page of events in order. */
  #eventsAfter(seq) {
    const page = () =>
      within(this.#client, this.#options.schema)
        .from("job_events")
        .select("job_id,seq,type,data,created_at")
        .eq("job_id", this.#id)
        .gt("seq", seq)
        .order("seq", { ascending: true })
        .limit(PAGE);
    return this.read((signal) => once(page(), { isWhole: Array.isArray, signal }));
  }

  /** Read what the streams have said, as far as the row says that there is more; whether it was. */
  async #readOutput(row) {
    const isWhole = (found) => Array.isArray(found?.streams);
    let isSaid = false;
    while (this.#output.hasGap || this.#output.lacks(row?.streams)) {
      const asked = { p_job_id: this.#id, p_after: this.#output.ends };
      const { streams } = await this.read((signal) =>
        call(this.#client, this.#options.schema, "job_output", asked, { isWhole, signal }),
      );
      if (!this.#takeOutput(streams)) break;
      isSaid = true;
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
function promised() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}

/** Jobs as they are now, without their histories: each event is a reason to read them again. */
class JobsWatch extends Follower {
  #read;
  #readEnds;
  #rows = [];
  #running = null; // ids that were seen alive; null before the first read
  #ended = new Set(); // ids that messages said have ended
  #received = new Set(); // jobs that messages named since the last read
  #missed = new Set(); // found by reads alone
  #isLoading = true;
  #isOld = false;
  #options;

  /** By `read`, and where ends are asked for `readEnds(ids)`, also of what left the list. */
  constructor(client, topic, { read, readEnds }, options) {
    super(sessionOf(client), topic, { reorder: REORDER_MS, ...options });
    this.#read = read;
    this.#readEnds = readEnds;
    this.#options = options;
    const { onChange } = options;
    if (onChange) this.subscribe(() => onChange(this.state));
  }

  get state() {
    const { freshness, error: problem } = this;
    return { jobs: this.#rows, isLoading: this.#isLoading && !problem, freshness, problem };
  }

  get hasGap() {
    return this.#isOld;
  }

  get receivedAll() {
    return this.#missed.size === 0;
  }

  /** What nothing but its messages can change is not read again to prove that none was missed. */
  get isLive() {
    return this.#options.isLive ?? true;
  }

  get silence() {
    return this.#rows.some((row) => row.status === "processing") ? PROGRESS_MS : super.silence;
  }

  onSynced() {
    this.#missed.clear();
  }

  receive(payload) {
    const event = normalizeEvent(payload);
    if (!event) return;
    const { job_id: id, seq, type, data } = event;
    this.#received.add(id);
    this.#missed.delete(id);
    if (type === "job.progress")
      this.#rows = this.#rows.map((row) =>
        row.id === id && seq > row.last_seq
          ? { ...row, last_seq: seq, progress: data.progress }
          : row,
      );
    else if (type !== "job.log") this.#isOld = true;
    if (this.#options.onEnd && ENDED.has(data.status)) this.#ended.add(id);
    notify(this.#options.onEvent, event);
  }

  forget() {
    this.#rows = [];
    this.#received.clear();
    this.#missed.clear();
    this.#ended.clear();
    this.#running = null;
    this.#isLoading = true;
  }

  async catchUp() {
    this.#isOld = false;
    const found = (await this.read(this.#read)) ?? [];
    const before = new Map(this.#rows.map((row) => [row.id, row]));
    const news = found.filter(({ id, status }) => before.get(id)?.status !== status);
    for (const { id } of news)
      if (!this.#isLoading && !this.#received.has(id)) this.#missed.add(id);
    this.#received.clear();
    this.#rows = found.map((row) => {
      const known = before.get(row.id); // a message may be later than the read that it overtook
      return known?.last_seq > row.last_seq
        ? { ...row, last_seq: known.last_seq, progress: known.progress }
        : row;
    });
    this.#isLoading = false;
    if (this.#options.onEnd) await this.#announceEnds();
    return news.length > 0;
  }

  /**
   * Each end once: of what was seen alive, or of what a message said has ended, also where it has
   * left the list by then. What had ended before the first read is no news.
   */
  async #announceEnds() {
    const listed = new Set(this.#rows.map(({ id }) => id));
    const wanted = new Set([...(this.#running ?? []), ...this.#ended]);
    const gone = [...wanted].filter((id) => !listed.has(id));
    const asked = gone.slice(0, MOST_ENDS);
    const found =
      asked.length > 0 ? await this.read((signal) => this.#readEnds(asked, signal)) : [];
    const rows = [...this.#rows, ...found];
    const isOver = ({ status }) => ENDED.has(status);
    const alive = rows.filter((row) => !isOver(row)).map(({ id }) => id);
    this.#running = new Set([...alive, ...gone.slice(MOST_ENDS)]);
    for (const id of [...listed, ...asked]) this.#ended.delete(id);
    for (const row of rows) if (wanted.has(row.id) && isOver(row)) notify(this.#options.onEnd, row);
  }
}

function started(watch) {
  watch.start();
  return watch;
}

/** Follow one job: `.state .ended .subscribe() .refresh() .close()`. */
export const watchJob = (client, jobId, options = {}) =>
  started(new JobWatch(client, jobId, options));

/**
 * Follow the newest jobs of a workspace or session, by any filter of `list_jobs`. A guest session's
 * id is its key: its jobs need no user, and have no payloads.
 */
export function watchJobs(client, filter, { limit = 20, ...options } = {}) {
  const { workspace_id: workspace, session_id: session } = filter;
  const isGuest = session?.startsWith("guest_");
  const [name, values] = isGuest
    ? ["guest_session_jobs", { p_session_id: session }]
    : ["list_jobs", { p_filter: filter, p_limit: limit }];
  const isWhole = (data) => Array.isArray(data?.jobs);
  const ask = async (asked, signal) =>
    (await call(client, options.schema, name, asked, { isWhole, signal })).jobs;
  const ends = (ids) => ({
    p_filter: { ...filter, ids, status: null, state: null }, // an end changes both
    p_limit: ids.length,
  });
  const reads = {
    read: (signal) => ask(values, signal),
    readEnds: (ids, signal) => (isGuest ? [] : ask(ends(ids), signal)),
  };
  const topic = session ? `session:${session}` : `workspace:${workspace}`;
  return started(new JobsWatch(client, topic, reads, options));
}

/** Learn when to read: `onRead` at the start and whenever something may have changed. */
export const watchTopic = (client, topic, { onRead, ...options }) =>
  started(new JobsWatch(client, topic, { read: async () => onRead?.() }, options));

export const watchWorkspace = (client, id, options = {}) =>
  watchTopic(client, `workspace:${id}`, options);
export const watchSession = (client, id, options = {}) =>
  watchTopic(client, `session:${id}`, options);
