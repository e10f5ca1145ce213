// A workspace: every state change of its jobs. Its topic carries neither progress nor logs, so a
// job's `seq` has holes here; what was missed is re-read by whoever shows it, see `onResync`.

import { Follower } from "./follower.js";
import { normalizeEvent } from "./sequence.js";

const REMEMBERED = 5000;

export class WorkspaceWatch extends Follower {
  #reads;
  #id;
  #options;
  #seen = new Map(); // job id -> highest seq told
  #heard = true;
  #started = false;

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
    return this.#heard;
  }

  receive(payload) {
    const event = normalizeEvent(payload);
    if (event && this.#note(event)) this.#options.onEvent?.(event);
    this.#heard = true;
  }

  async catchUp() {
    const first = !this.#started;
    const newest = normalizeEvent(await this.#reads.newestChange(this.#id));
    const news = newest !== null && this.#note(newest);
    this.#started = true;
    if (!first && !news && this.freshness === "live") return;
    if (news && this.freshness === "live") this.#heard = false;
    // joined anew, polling, or something happened of which the socket did not tell
    await this.#options.onResync?.({ first });
  }

  #note({ job_id: id, seq }) {
    if (seq <= (this.#seen.get(id) ?? 0)) return false;
    this.#seen.delete(id); // to the end: the map forgets whom it has not heard of for longest
    this.#seen.set(id, seq);
    if (this.#seen.size > REMEMBERED) this.#seen.delete(this.#seen.keys().next().value);
    return true;
  }
}
