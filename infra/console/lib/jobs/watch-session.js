// A session: all its jobs, and every event of theirs but log lines.

import { Follower, tell } from "./follower.js";
import { PAGE, readsOfSession } from "./reads.js";
import { applyEvent, needsRow, normalizeEvent, Sequence } from "./sequence.js";
import { topicsOf } from "./topics.js";

/** @import { Client, Freshness, JobEvent, SessionJob } from "./types.js" */

/**
 * @typedef {{row: SessionJob, sequence: Sequence<JobEvent>, told: number}} Line
 * @typedef {{jobs: SessionJob[], freshness: Freshness, missing: boolean,
 *   problem: Error | null}} SessionState
 *   The jobs newest first; `missing`: a guest session that has ended, or never was.
 */
/**
 * @typedef {object} OwnSessionOptions
 * @property {string} [schema] Where the jobs are: `minutehand` unless installed elsewhere.
 * @property {boolean} [history] Also hand out the events that lie in the past.
 * @property {(event: JobEvent) => void} [onEvent] Each event but log lines, once, in order per job.
 * @property {(state: SessionState) => void} [onChange] At most once per frame.
 */
/** @typedef {OwnSessionOptions & import("./follower.js").Timing} SessionOptions */

export class SessionWatch extends Follower {
  #reads;
  #id;
  #options;
  /** @type {Map<string, Line>} */
  #lines = new Map();
  /** @type {Set<string>} */
  #missing = new Set();
  /** @type {Map<string, number>} */
  #heard = new Map();
  #gone = false;
  #hasRead = false; // what there was: a job that comes later is told from its first event

  /**
   * @param {import("./reads.js").Reads} reads
   * @param {import("./topics.js").Topics} topics
   * @param {string} id
   * @param {SessionOptions} options
   */
  constructor(reads, topics, id, options) {
    super(topics, `session:${id}`, options);
    this.#reads = reads;
    this.#id = id;
    this.#options = options;
    const { onChange } = options;
    if (onChange) this.subscribe(() => onChange(this.state));
  }

  /** @returns {SessionState} */
  get state() {
    const jobs = [...this.#lines.values()].map((line) => line.row);
    jobs.sort((a, b) => (a.created_at < b.created_at ? 1 : -1));
    return { jobs, freshness: this.freshness, missing: this.#gone, problem: this.error };
  }

  get hasGap() {
    // a row that was read ahead of its events counts: they are still to be told
    const isBehind = (/** @type {Line} */ { row, sequence }) =>
      sequence.hasGap || sequence.last < row.last_seq;
    return this.#missing.size > 0 || [...this.#lines.values()].some(isBehind);
  }

  get heardAll() {
    return [...this.#lines].every(([id, { told }]) => told <= (this.#heard.get(id) ?? 0));
  }

  onSynced() {
    for (const [id, { told }] of this.#lines)
      this.#heard.set(id, Math.max(this.#heard.get(id) ?? 0, told));
  }

  /** @param {unknown} payload */
  receive(payload) {
    const event = normalizeEvent(payload);
    if (!event) return;
    this.#heard.set(event.job_id, Math.max(this.#heard.get(event.job_id) ?? 0, event.seq));
    const line = this.#lines.get(event.job_id);
    if (!line) return void this.#missing.add(event.job_id); // a new job: the next read finds it
    // a hole may be a log line, which this topic does not carry: the read closes it either way
    this.#take(line, line.sequence.offer([event]));
  }

  async catchUp() {
    const before = this.#lastOfAll();
    this.#missing.clear();
    for (const row of await this.#jobs()) {
      let line = this.#lines.get(row.id);
      if (!line) {
        const known = this.#options.history || this.#hasRead ? 0 : row.last_seq;
        line = { row, sequence: new Sequence(known), told: 0 };
        this.#lines.set(row.id, line);
      } else if (row.last_seq >= line.row.last_seq) {
        line.row = row;
      }
      await this.#readEvents(line);
    }
    this.#hasRead = true;
    return this.#lastOfAll() > before;
  }

  #lastOfAll() {
    return [...this.#lines.values()].reduce((sum, { sequence }) => sum + sequence.last, 0);
  }

  async #jobs() {
    try {
      const jobs = await this.#reads.sessionJobs(this.#id);
      this.#gone = false;
      return jobs;
    } catch (error) {
      this.#gone = /** @type {any} */ (error)?.status === 404;
      throw error;
    }
  }

  /** @param {Line} line */
  async #readEvents(line) {
    while (line.sequence.last < line.row.last_seq || line.sequence.hasGap) {
      const page = await this.#reads.events(line.row.id, line.sequence.last);
      const isLast = page.length < PAGE;
      const events = page.map(normalizeEvent).filter((event) => event !== null);
      this.#take(line, line.sequence.offerPage(events, { isLast }));
      if (isLast) break;
    }
  }

  /**
   * @param {Line} line
   * @param {JobEvent[]} events In order, each once.
   */
  #take(line, events) {
    for (const event of events) {
      if (event.seq > line.row.last_seq && needsRow(event.type)) this.#missing.add(line.row.id);
      line.row = applyEvent(line.row, event);
      if (event.type === "job.log") continue;
      line.told = event.seq;
      tell(this.#options.onEvent, event);
    }
  }
}

/**
 * Follow all jobs of a session: a conversation, a guest session.
 *
 * A session that was opened by `open_guest_session` needs no signed-in user: its id is the key, and the
 * publishable key is enough where anonymous use is allowed. Its rows have no payloads.
 *
 * @param {Client} client A supabase-js client, signed in unless the session is a guest session.
 * @param {string} sessionId
 * @param {SessionOptions} [options]
 * @returns {SessionWatch} `.state .subscribe() .refresh() .close()`
 */
export function watchSession(client, sessionId, options = {}) {
  const reads = readsOfSession(client, sessionId, options.schema);
  const watch = new SessionWatch(reads, topicsOf(client), sessionId, options);
  watch.start();
  return watch;
}
