// A workspace: every state change of its jobs, each once. Its topic carries neither progress nor
// logs, so a job's `seq` has holes here; what the socket loses is read from the workspace's feed.

import { Follower } from "./follower.js";
import { normalizeEvent } from "./sequence.js";

/** @import { Freshness, JobEvent } from "./types.js" */

/** @typedef {{freshness: Freshness, problem: Error | null}} WorkspaceState */
/**
 * @typedef {object} OwnWorkspaceOptions
 * @property {string} [schema] Where the jobs are: `minutehand` unless installed elsewhere.
 * @property {(event: JobEvent) => void} [onEvent] Each state change from now on, once; what the
 *   socket lost comes late. A job's `seq` has holes: progress and logs do not travel here.
 * @property {(why: {first: boolean}) => Promise<void> | void} [onResync] Read what you show: once
 *   at the start, and again after an absence too long to be told event by event.
 * @property {(state: WorkspaceState) => void} [onChange] At most once per frame.
 */
/** @typedef {OwnWorkspaceOptions & import("./follower.js").Timing} WorkspaceOptions */

const MOST_PAGES = 10; // a longer absence: anyone who shows jobs had better read them again

export class WorkspaceWatch extends Follower {
  #reads;
  #id;
  #options;
  /** @type {string | null} */
  #cursor = null;
  /** @type {Set<string>} */
  #told = new Set(); // "job seq" since the feed was read last, and
  /** @type {Set<string>} */
  #toldBefore = new Set(); // before that: a message may be later than the read that overtook it
  /** @type {Set<string>} */
  #unheard = new Set();

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
    if (this.#cursor === null) {
      this.#cursor = (await this.#reads.feed(this.#id, null)).cursor;
      await this.#options.onResync?.({ first: true }); // from here on the feed misses nothing
      return true;
    }
    const wasLive = this.freshness === "live";
    const news = [];
    for (let pages = 0, more = true; more; pages += 1) {
      const page = await this.#reads.feed(this.#id, this.#cursor);
      this.#cursor = page.cursor;
      more = page.more;
      if (page.reset || pages === MOST_PAGES) return this.#startAnew();
      for (const row of page.events) {
        const event = normalizeEvent(row);
        if (event && this.#notify(event)) news.push(nameOf(event));
      }
    }
    this.#unheard = new Set(wasLive ? news : []);
    this.#toldBefore = this.#told;
    this.#told = new Set();
    return news.length > 0;
  }

  async #startAnew() {
    this.#cursor = (await this.#reads.feed(this.#id, null)).cursor;
    await this.#options.onResync?.({ first: false });
    return true;
  }

  /** @param {JobEvent} event */
  #notify(event) {
    const name = nameOf(event);
    if (this.#told.has(name) || this.#toldBefore.has(name)) return false;
    this.#told.add(name);
    this.#options.onEvent?.(event);
    return true;
  }
}

/** @param {JobEvent} event */
const nameOf = ({ job_id: id, seq }) => `${id} ${seq}`;
