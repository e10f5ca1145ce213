// Jobs as they are now, without their histories: one, or the newest of a workspace that fit a filter.
// What an event does not say is read; the engine derives it, so that no rule is here twice.

import { Follower } from "./follower.js";
import { call } from "./reads.js";
import { normalizeEvent } from "./sequence.js";
import { topicsOf } from "./topics.js";

/** @import { Client, DescribedJob, Freshness, JobFilter, ListedJob } from "./types.js" */
/** @typedef {ListedJob & Partial<DescribedJob>} Row `list_jobs` has neither payload nor result. */
/**
 * @typedef {{jobs: Row[], isLoading: boolean, freshness: Freshness,
 *   problem: Error | null}} JobsState The jobs newest first; `problem`: why reading fails.
 */
/**
 * @typedef {object} OwnJobsOptions
 * @property {string} [schema] Where the jobs are: `minutehand` unless installed elsewhere.
 * @property {Omit<JobFilter, "workspace_id">} [filter] As `list_jobs` takes it: `{ tag: "import-7" }`.
 * @property {number} [limit] How many at most, 1 to 200; 20 by default.
 * @property {(state: JobsState) => void} [onChange] At most once per frame.
 */
/** @typedef {OwnJobsOptions & import("./follower.js").Timing} JobsOptions */

const REORDER_MS = 400; // between reads in a workspace where much happens

/** Rows of one topic, each read again when an event says more than its progress. */
export class JobsWatch extends Follower {
  #read;
  /** @type {Map<string, Row>} */
  #rows = new Map();
  /** @type {Set<string>} */
  #heard = new Set(); // since the last read
  /** @type {Set<string>} */
  #unheard = new Set(); // found by reads alone
  #isLoading = true;
  #isOld = false;

  /**
   * @param {import("./topics.js").Topics} topics
   * @param {string} topic
   * @param {() => Promise<Row[]>} read
   * @param {JobsOptions} options
   */
  constructor(topics, topic, read, options) {
    super(topics, topic, options);
    this.#read = read;
    const { onChange } = options;
    if (onChange) this.subscribe(() => onChange(this.state));
  }

  /** @returns {JobsState} */
  get state() {
    const jobs = [...this.#rows.values()];
    return { jobs, isLoading: this.#isLoading, freshness: this.freshness, problem: this.error };
  }

  get hasGap() {
    return this.#isOld;
  }

  get heardAll() {
    return this.#unheard.size === 0;
  }

  onSynced() {
    this.#unheard.clear();
  }

  get isLive() {
    return [...this.#rows.values()].every((row) => !row.finished_at);
  }

  /** @param {unknown} payload */
  receive(payload) {
    const event = normalizeEvent(payload);
    if (!event) return;
    const { job_id: id, seq, type, data } = event;
    this.#heard.add(id);
    this.#unheard.delete(id);
    const row = this.#rows.get(id);
    if (row && seq > row.last_seq) {
      const progress = "progress" in data ? data.progress : row.progress;
      this.#rows.set(id, { ...row, last_seq: seq, progress });
    }
    this.#isOld ||= type !== "job.progress" && type !== "job.log";
  }

  async catchUp() {
    this.#isOld = false;
    const found = await this.#read();
    const before = this.#rows;
    const isNews = (/** @type {Row} */ { id, status }) => before.get(id)?.status !== status;
    const news = found.filter(isNews);
    for (const { id } of news) if (!this.#isLoading && !this.#heard.has(id)) this.#unheard.add(id);
    this.#heard.clear();
    this.#rows = new Map(found.map((row) => [row.id, withProgress(row, before.get(row.id))]));
    this.#isLoading = false;
    return news.length > 0;
  }
}

/** @type {(read: Row, known?: Row) => Row} A message may be later than the read that it overtook. */
const withProgress = (read, known) =>
  known && known.last_seq > read.last_seq
    ? { ...read, last_seq: known.last_seq, progress: known.progress }
    : read;

/** A workspace's topic carries neither progress nor log lines: each live job's own is joined. */
class ListWatch extends JobsWatch {
  /** @type {Map<string, () => void>} */
  #leaves = new Map();
  #join;

  /** @param {ConstructorParameters<typeof JobsWatch>} given */
  constructor(...given) {
    super(...given);
    const [topics, , , { schema }] = given;
    const nothing = () => {}; // what is lost here, the list's own reads find
    const message = (/** @type {unknown} */ payload) => {
      this.receive(payload);
      this.notify();
    };
    const listener = { joined: nothing, lost: nothing, message };
    this.#join = (/** @type {string} */ id) => topics.join(`job:${id}`, listener, schema);
  }

  get isLive() {
    return true;
  }

  async catchUp() {
    const hasNews = await super.catchUp();
    if (this.closed) return hasNews;
    const live = new Set(this.state.jobs.filter((row) => !row.finished_at).map(({ id }) => id));
    for (const [id, leave] of this.#leaves)
      if (!live.has(id)) {
        leave();
        this.#leaves.delete(id);
      }
    for (const id of live) if (!this.#leaves.has(id)) this.#leaves.set(id, this.#join(id));
    return hasNews;
  }

  onClose() {
    for (const leave of this.#leaves.values()) leave();
  }
}

/**
 * Follow one job as it is now, with what the engine derives: `state`, `waiting_for`, `next_run_at`.
 *
 * @param {Client} client A signed-in supabase-js client.
 * @param {string} id
 * @param {JobsOptions} options
 */
export function watchRow(client, id, options) {
  const read = async () => [await call(client, options.schema, "get_job", { p_job_id: id })];
  const watch = new JobsWatch(topicsOf(client), `job:${id}`, read, { ...options, reorder: 0 });
  watch.start();
  return watch;
}

/**
 * Follow the newest jobs of a workspace: of a tag, a type, or whatever else `list_jobs` filters by.
 *
 * @param {Client} client A signed-in supabase-js client.
 * @param {string} workspaceId
 * @param {JobsOptions} [options]
 * @returns {JobsWatch} `.state .subscribe() .refresh() .close()`
 */
export function watchJobs(client, workspaceId, { filter, limit = 20, ...options } = {}) {
  const values = { p_filter: { ...filter, workspace_id: workspaceId }, p_limit: limit };
  const read = async () => (await call(client, options.schema, "list_jobs", values)).jobs;
  const timing = { reorder: REORDER_MS, ...options };
  const watch = new ListWatch(topicsOf(client), `workspace:${workspaceId}`, read, timing);
  watch.start();
  return watch;
}
