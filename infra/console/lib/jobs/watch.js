// Follows a list of jobs, or reports each change of a workspace or session.

import { call } from "./client.js";
import { ENDED } from "./ended.js";
import { Follower } from "./follower.js";
import { notify } from "./page.js";
import { normalizeEvent } from "./sequence.js";
import { sessionOf } from "./session.js";

const REORDER_MS = 400; // minimum ms between reads of a busy topic
const PROGRESS_MS = 2000; // ms between reads while jobs run: the topic sends no progress
const MAX_ENDS = 200; // maximum rows of one read

/**
 * Watch of a list of jobs. After an event of a job, the watch reads the list again, instead of
 * keeping the jobs' events.
 */
class JobsWatch extends Follower {
  #read;
  #readEnds;
  #rows = [];
  #running = null; // ids of live jobs, or null before the first read
  #ended = new Set(); // ids of jobs whose end a message reported
  #received = new Set(); // ids of jobs in messages since the last read
  #missed = new Set(); // ids of changed jobs that only reads found
  #isLoading = true;
  #isOld = false;
  #options;

  /**
   * `read()` returns the rows of the list. `readEnds(ids)` returns the rows of jobs that have left
   * the list. If `readEnds` is missing, the page itself reads the progress of jobs.
   */
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

  /**
   * Is true if the list may change without a message, so that the watch must read at intervals to
   * find missed changes.
   */
  get isLive() {
    return this.#options.isLive ?? true;
  }

  get silence() {
    const readsProgress = this.#readEnds && this.#rows.some((row) => row.status === "processing");
    return readsProgress ? PROGRESS_MS : super.silence;
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

  clear() {
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
    const newest =
      this.#rows
        .map((row) => row.created_at)
        .sort()
        .at(-1) ?? "";
    // An older row that is new in the list does not count as a change, because no message reports
    // that the row moves up when another row leaves the list.
    const changed = found.filter(({ id, status, created_at: createdAt }) =>
      before.has(id) ? before.get(id).status !== status : !(createdAt <= newest),
    );
    for (const { id } of changed)
      if (!this.#isLoading && !this.#received.has(id)) this.#missed.add(id);
    this.#received.clear();
    this.#rows = found.map((row) => {
      const known = before.get(row.id); // a message may be newer than the response of the read
      return known?.last_seq > row.last_seq
        ? { ...row, last_seq: known.last_seq, progress: known.progress }
        : row;
    });
    this.#isLoading = false;
    if (this.#options.onEnd) await this.#announceEnds();
    return changed.length > 0;
  }

  /**
   * Call `onEnd` once for each job that ends, even if the job has left the list. Do not call
   * `onEnd` for a job that ended before the first read, unless a message reported the end.
   */
  async #announceEnds() {
    const listed = new Set(this.#rows.map(({ id }) => id));
    const watched = new Set([...(this.#running ?? []), ...this.#ended]);
    const gone = [...watched].filter((id) => !listed.has(id));
    const missing = gone.slice(0, MAX_ENDS);
    const found =
      missing.length > 0 ? await this.read((signal) => this.#readEnds(missing, signal)) : [];
    const rows = [...this.#rows, ...found];
    const isOver = ({ status }) => ENDED.has(status);
    const live = rows.filter((row) => !isOver(row)).map(({ id }) => id);
    this.#running = new Set([...live, ...gone.slice(MAX_ENDS)]);
    for (const id of [...listed, ...missing]) this.#ended.delete(id);
    for (const row of rows)
      if (watched.has(row.id) && isOver(row)) notify(this.#options.onEnd, row);
  }
}

function start(watch) {
  watch.start();
  return watch;
}

/**
 * Follow the newest jobs of a workspace or session, with any filter of the function `list_jobs`.
 * The id of a guest session grants access without a sign-in, but the rows of a guest session have
 * no payloads.
 */
export function watchJobs(client, filter, { limit = 20, ...options } = {}) {
  const { workspace_id: workspace, session_id: session } = filter;
  const isGuest = session?.startsWith("guest_");
  const [name, values] = isGuest
    ? ["guest_session_jobs", { p_session_id: session }]
    : ["list_jobs", { p_filter: filter, p_limit: limit }];
  const isWhole = (data) => Array.isArray(data?.jobs);
  // a session exists after its first job, which the list contains unless it has another filter
  let setExists;
  const exists = new Promise((resolve) => (setExists = resolve));
  if (!session || Object.keys(filter).length > 1) setExists();
  const ask = async (parameters, signal) => {
    const { jobs } = await call(client, options.schema, name, parameters, { isWhole, signal });
    if (jobs.length > 0) setExists();
    return jobs;
  };
  const ends = (ids) => ({
    p_filter: { ...filter, ids, status: null, state: null }, // both change at the end
    p_limit: ids.length,
  });
  const reads = {
    read: (signal) => ask(values, signal),
    readEnds: (ids, signal) => (isGuest ? [] : ask(ends(ids), signal)),
  };
  const topic = session ? `session:${session}` : `workspace:${workspace}`;
  return start(new JobsWatch(client, topic, reads, { ...options, exists }));
}

/**
 * Call `onRead` at the start, and each time when the workspace or session of the topic may have
 * changed. If `onRead` returns rows of jobs, the watch checks by these rows whether messages
 * arrive.
 */
export const watchTopic = (client, topic, { onRead, ...options }) =>
  start(new JobsWatch(client, topic, { read: async () => onRead?.() }, options));

export const watchWorkspace = (client, id, options = {}) =>
  watchTopic(client, `workspace:${id}`, options);
export const watchSession = (client, id, options = {}) =>
  watchTopic(client, `session:${id}`, options);
