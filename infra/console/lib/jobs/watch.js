// Jobs followed as they are now, or that something changed.

import { call } from "./client.js";
import { Follower } from "./follower.js";
import { notify } from "./page.js";
import { ENDED, normalizeEvent } from "./sequence.js";
import { sessionOf } from "./session.js";

const REORDER_MS = 400; // between reads of a topic where much happens
const PROGRESS_MS = 2000; // a workspace's topic carries no progress: it is read while jobs run
const MAX_ENDS = 200; // that one read of a list gives

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
    const asked = gone.slice(0, MAX_ENDS);
    const found =
      asked.length > 0 ? await this.read((signal) => this.#readEnds(asked, signal)) : [];
    const rows = [...this.#rows, ...found];
    const isOver = ({ status }) => ENDED.has(status);
    const alive = rows.filter((row) => !isOver(row)).map(({ id }) => id);
    this.#running = new Set([...alive, ...gone.slice(MAX_ENDS)]);
    for (const id of [...listed, ...asked]) this.#ended.delete(id);
    for (const row of rows) if (wanted.has(row.id) && isOver(row)) notify(this.#options.onEnd, row);
  }
}

function started(watch) {
  watch.start();
  return watch;
}

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
