// A workspace: every state change of its jobs, each once. Its topic carries neither progress nor
// logs, so a job's `seq` has holes here; what the socket loses is read from the workspace's feed.

import { Follower, tell } from "./follower.js";
import { normalizeEvent } from "./sequence.js";

/** @import { Freshness, JobEvent } from "./types.js" */

/** @typedef {{freshness: Freshness, problem: Error | null}} WorkspaceState */
/**
 * @typedef {object} OwnWorkspaceOptions
 * @property {string} [schema] Where the jobs are: `minutehand` unless installed elsewhere.
 * @property {(event: JobEvent) => void} [onEvent] Each state change from now on, once; what the
 *   socket lost comes late. A job's `seq` has holes: progress and logs do not travel here.
 * @property {(why: {first: boolean}) => Promise<void> | void} [onResync] Read what you show: once
 *   at the start, and again after an absence too long to be told event by event. Where it fails it
 *   is called again, and until then the watch is not live.
 * @property {(state: WorkspaceState) => void} [onChange] At most once per frame.
 */
/** @typedef {OwnWorkspaceOptions & import("./follower.js").Timing} WorkspaceOptions */

const KEPT_MS = 30_000;
const MOST_PAGES = 10; // a longer absence: anyone who shows jobs had better read them again

export class WorkspaceWatch extends Follower {
  #reads;
  #id;
  #options;
  /** @type {string | null} */
  #cursor = null;
  #isFirst = true;
  /** @type {Set<string>} */
  #told = new Set(); // "job seq" of the last half minute, and
  /** @type {Set<string>} */
  #toldBefore = new Set(); // before that: a message may be later than the read that overtook it
  /** @type {Set<string>} */
  #unheard = new Set();
  #forgotAt = Date.now();

  /**
   * @param {Pick<ReturnType<typeof import("./reads.js").readsOf>, "feed">} reads
   * @param {import("./topics.js").Topics} topics
   * @param {string} id
   * @param {WorkspaceOptions} options
   */
  constructor(reads, topics, id, options) {
    super(topics, `workspace:${id}`, options);
    this.#reads = reads;
    this.#id = id;
    this.#options = options;
    const { onChange } = options;
    if (onChange) this.subscribe(() => onChange(this.state));
  }

  /** @returns {WorkspaceState} */
  get state() {
    return { freshness: this.freshness, problem: this.error };
  }

  get heardAll() {
    return this.#unheard.size === 0;
  }

  onSynced() {
    this.#unheard.clear();
  }

  /** @param {unknown} payload */
  receive(payload) {
    const event = normalizeEvent(payload);
    if (!event) return;
    this.#unheard.delete(nameOf(event));
    this.#notify(event);
  }

  async catchUp() {
    if (this.#cursor === null) return this.#startAnew();
    const wasLive = this.freshness === "live";
    const news = [];
    for (let pages = 0, more = true; more; pages += 1) {
      const page = await this.#reads.feed(this.#id, this.#cursor);
      this.#cursor = page.cursor;
      more = page.more;
      if (page.reset || pages === MOST_PAGES) {
        this.#cursor = null;
        return this.#startAnew();
      }
      for (const row of page.events) {
        const event = normalizeEvent(row);
        if (event && this.#notify(event)) news.push(nameOf(event));
      }
    }
    if (wasLive) for (const name of news) this.#unheard.add(name);
    this.#forgetOld();
    return news.length > 0;
  }

  #forgetOld() {
    if (Date.now() < this.#forgotAt + KEPT_MS) return;
    this.#forgotAt = Date.now();
    this.#toldBefore = this.#told;
    this.#told = new Set();
  }

  async #startAnew() {
    const { cursor } = await this.#reads.feed(this.#id, null);
    // from here on the feed misses nothing; if what is shown cannot be read, both are tried again
    await this.#options.onResync?.({ first: this.#isFirst });
    this.#isFirst = false;
    this.#cursor = cursor;
    return true;
  }

  /** @param {JobEvent} event */
  #notify(event) {
    const name = nameOf(event);
    if (this.#told.has(name) || this.#toldBefore.has(name)) return false;
    this.#told.add(name);
    tell(this.#options.onEvent, event);
    return true;
  }
}

/** @param {JobEvent} event */
const nameOf = ({ job_id: id, seq }) => `${id} ${seq}`;
