// A workspace: every state change of its jobs, each once. Its topic carries neither progress nor
// logs, so a job's `seq` has holes here; what the socket loses is read from the workspace's feed.

import { Follower } from "./follower.js";
import { normalizeEvent } from "./sequence.js";

const MOST_PAGES = 10; // a longer absence: whoever shows jobs had better read them again

export class WorkspaceWatch extends Follower {
  #reads;
  #id;
  #options;
  #cursor = null;
  #told = new Set(); // "job seq" since the feed was read last, and
  #toldBefore = new Set(); // before that: a message may be later than the read that overtook it
  #unheard = new Set();

  constructor(reads, topics, id, options) {
    super(topics, `workspace:${id}`, options);
    this.#reads = reads;
    this.#id = id;
    this.#options = options;
    if (options.onChange) this.subscribe(() => options.onChange(this.state));
  }

  get state() {
    return { freshness: this.freshness, problem: this.error };
  }

  get heardAll() {
    return this.#unheard.size === 0;
  }

  onSynced() {
    this.#unheard.clear();
  }

  receive(payload) {
    const event = normalizeEvent(payload);
    if (!event) return;
    this.#unheard.delete(nameOf(event));
    this.#tell(event);
  }

  async catchUp() {
    if (this.#cursor === null) {
      this.#cursor = (await this.#reads.feed(this.#id, null)).cursor;
      await this.#options.onResync?.({ first: true }); // from here on the feed misses nothing
      return;
    }
    const wasLive = this.freshness === "live";
    const news = [];
    let page = null;
    for (let pages = 0; pages === 0 || page.more; pages += 1) {
      page = await this.#reads.feed(this.#id, this.#cursor);
      this.#cursor = page.cursor;
      if (page.reset || pages === MOST_PAGES) return this.#startAnew();
      for (const row of page.events) {
        const event = normalizeEvent(row);
        if (event && this.#tell(event)) news.push(nameOf(event));
      }
    }
    this.#unheard = new Set(wasLive ? news : []);
    this.#toldBefore = this.#told;
    this.#told = new Set();
    return undefined;
  }

  async #startAnew() {
    this.#cursor = (await this.#reads.feed(this.#id, null)).cursor;
    await this.#options.onResync?.({ first: false });
  }

  #tell(event) {
    const name = nameOf(event);
    if (this.#told.has(name) || this.#toldBefore.has(name)) return false;
    this.#told.add(name);
    this.#options.onEvent?.(event);
    return true;
  }
}

const nameOf = ({ job_id: id, seq }) => `${id} ${seq}`;
