// Live list of a workspace's jobs. The list of jobs is read page by page (keyset pagination). When
// jobs change, the list reads the first rows and the visible rows again.

import { jobs as api, supabase } from "../api.js";
import { watchWorkspace } from "../lib/jobs/watch.js";
import { isTransient } from "../lib/store.js";
import { useLayoutEffect, useRef, useState } from "../lib/ui.js";

const INITIAL_STATE = {
  rows: [],
  counts: { states: {}, at_least: [], rows: [], isPart: true },
  isLoading: true,
  isLoadingMore: false,
  isAll: false,
  error: null,
  freshness: "catching-up",
};

const PAGE = 100;
const RETRY_MS = 5000;
const MAX_REFRESHED = 200; // maximum number of ids in one call that reads rows again
// `WITHHELD_MS`: milliseconds between two reads while Realtime withholds messages.
// `CHANGE_MS`: minimum milliseconds between two reads that Realtime messages cause.
const WITHHELD_MS = 12_000;
const CHANGE_MS = 1000;
const PROGRESS_MS = 6000; // milliseconds between reads of visible running jobs
/** Columns of a row that the list shows. A whole row is three times as long. */
const COLUMNS = [
  ...["id", "job_type", "state", "status", "attempts", "max_attempts", "created_at", "started_at"],
  ...["running_since", "scheduled_for", "next_retry_at", "next_run_at", "waiting_for", "progress"],
  ...["times", "cancel_requested_at", "error", "error_message", "glimpse", "last_seq"],
];

/** Filters with which the SQL function `count_jobs` also counts jobs of unpublished types. */
const COUNTED = ["job_type", "internal"];

/**
 * Holds the state of a list of jobs, and reads and refreshes the list. The component `JobMonitor`
 * draws the list.
 */
class JobList {
  #workspaceId;
  #filter;
  #countFilter;
  #onChange;
  #watch = null;
  #rows = new Map(); // id -> row, newest first
  #top = []; // rows of the last refresh, from the first
  #old = new Set(); // ids of rows that have been read before the last refresh
  #cursor = null;
  #cursorOfTop = null; // cursor that reads the changes of the first page
  #controller = new AbortController();
  #visible = () => [];
  #readAt = -Infinity; // time of the last refresh
  #retry = 0;
  #progress = 0;

  state = INITIAL_STATE;

  constructor(workspaceId, filter, countFilter, onChange) {
    this.#workspaceId = workspaceId;
    this.#filter = { ...filter, workspace_id: workspaceId };
    this.#countFilter = countFilter;
    this.#onChange = onChange;
  }

  start() {
    this.#watch = watchWorkspace(supabase(), this.#workspaceId, {
      onRead: async () => {
        await this.refresh();
        if (this.state.error) throw this.state.error; // the watch repeats the read
        return this.#top;
      },
      onChange: ({ freshness }) => this.#set({ freshness }),
      firstSilence: WITHHELD_MS,
      silence: Infinity, // each minute, the watch compares the position of the workspace's topic
      reorder: CHANGE_MS,
      isPausable: true,
    });
    this.#progress = setInterval(() => this.#readProgress(), PROGRESS_MS);
  }

  close() {
    this.#controller.abort();
    this.#watch?.close();
    clearTimeout(this.#retry);
    clearInterval(this.#progress);
  }

  /**
   * Set the function that returns the ids of the visible rows. After changes of jobs, the list
   * reads the visible rows again.
   */
  watchVisible(visible) {
    this.#visible = visible;
  }

  /** List only the jobs with these ids. If all are known, keep the rows of the other jobs too. */
  limitTo(ids) {
    if (ids.every((id) => this.#filter.ids.includes(id))) return;
    this.#filter = { ...this.#filter, ids };
    this.#watch.refresh();
  }

  /** Read the next page of the list of jobs. */
  async more() {
    if (this.state.isLoadingMore || this.state.isAll || this.state.isLoading) return;
    this.#set({ isLoadingMore: true });
    await this.#tryRead(async () => {
      const cursor = this.#cursor;
      const page = await this.#page(this.#filter, cursor);
      if (cursor !== this.#cursor) return; // a refresh has removed the rows before the page
      for (const row of page.jobs) this.#rows.set(row.id, row);
      this.#end(page.next);
    });
    this.#set({ isLoadingMore: false });
  }

  /**
   * Read the first rows and the visible rows of the list again, without a change of the scroll
   * position.
   */
  async refresh() {
    await this.#tryRead(async () => {
      const counting = this.#count();
      counting.catch(() => {}); // the error of `counting` is reported below
      const page = await this.#firstPage();
      const [first] = this.#rows.keys();
      const isAway = this.#visible()[0] !== first; // the person has scrolled the list
      const isOld = (row) => this.#rows.has(row.id);
      // If the page has only new rows, jobs between the page and the old rows are missing. Keep the
      // old rows only if the person has scrolled to them, and read the missing jobs next.
      const isJoined = page.jobs.some(isOld);
      const top = new Set(page.jobs.map((row) => row.id));
      const oldest = page.jobs.at(-1)?.created_at ?? "9"; // "9" is later than every time
      const { ids } = this.#filter;
      const isListed = ({ id }) => !top.has(id) && (!ids || ids.includes(id));
      const kept = [...this.#rows.values()].filter(
        (row) => (isJoined || isAway) && page.next && isListed(row) && row.created_at <= oldest,
      );
      this.#top = page.jobs;
      this.#readAt = Date.now();
      this.#rows = new Map([...page.jobs, ...kept].map((row) => [row.id, row]));
      this.#old = new Set(kept.map((row) => row.id));
      if (kept.length === 0 || !isJoined || ids) this.#end(page.next);
      await this.#readOld();
      this.#set({ counts: await counting });
    });
  }

  /** Read the visible rows again that have been read before the last refresh. */
  readVisible() {
    if (this.#visible().some((id) => this.#old.has(id))) this.#tryRead(() => this.#readOld());
  }

  async #readOld() {
    const top = this.#top;
    const ids = this.#visible()
      .filter((id) => this.#old.has(id))
      .slice(0, MAX_REFRESHED);
    for (const id of ids) this.#old.delete(id);
    const rows = await this.#readAgain(ids);
    if (top !== this.#top) return; // a refresh has read them in the meantime
    for (const id of ids) {
      if (rows.has(id)) this.#rows.set(id, rows.get(id));
      else this.#rows.delete(id);
    }
  }

  /**
   * Read the first rows of the list. For jobs that have not changed since the last read, the
   * database returns only ids.
   */
  async #firstPage() {
    // jobs that are new in a list of ids may be old; at first, no row is visible
    const limit = this.#filter.ids ? MAX_REFRESHED : Math.min(this.#visible().length, PAGE) || PAGE;
    const page = await this.#page(this.#filter, this.#cursorOfTop, limit);
    const known = new Map(this.#top.map(({ id }) => [id, this.#rows.get(id)]));
    const isNew = (row) => !row.state && !known.get(row.id);
    // a job has moved up to the first rows, because the filter no longer matches another job
    const moved = await this.#readAgain(page.jobs.filter(isNew).map((row) => row.id));
    this.#cursorOfTop = { since: page.now, seen: page.seen };
    const jobs = page.jobs.map((row) =>
      row.state ? row : (known.get(row.id) ?? moved.get(row.id)),
    );
    return { ...page, jobs: jobs.filter(Boolean) };
  }

  /**
   * Read the visible running jobs again, because the Realtime topic of the workspace does not
   * report progress.
   */
  async #readProgress() {
    const isRunning = (id) => this.#rows.get(id)?.status === "processing";
    const ids = this.#visible().filter(isRunning);
    const isNew = Date.now() < this.#readAt + PROGRESS_MS;
    if (ids.length === 0 || isNew || document.visibilityState !== "visible") return;
    await this.#tryRead(async () => {
      // check the row again, because a refresh may have removed it while this read was in flight
      for (const [id, row] of await this.#readAgain(ids, this.#cursorOfTop))
        if (isRunning(id) && row.state) this.#rows.set(id, row);
    });
  }

  /**
   * Read rows by their ids, and return a map of the rows that still match the filter. With a
   * `cursor`, rows that have not changed since have only an id.
   */
  async #readAgain(ids, cursor = null) {
    if (ids.length === 0) return new Map();
    const { jobs } = await this.#page({ ...this.#filter, ids }, cursor, MAX_REFRESHED);
    return new Map(jobs.map((row) => [row.id, row]));
  }

  #page = (filter, cursor, limit = PAGE) =>
    api.page(filter, { ...cursor, columns: COLUMNS }, limit, this.#controller.signal);

  /**
   * Count the jobs of all states that match. For filters that the database does not count by,
   * count the newest jobs, and return them as `rows`.
   */
  async #count() {
    const filter = this.#countFilter;
    if (Object.keys(filter).every((name) => COUNTED.includes(name)))
      return api.counts(this.#workspaceId, filter);
    const all = { ...filter, workspace_id: this.#workspaceId };
    const columns = ["id", "state"];
    const page = await api.page(all, { columns }, MAX_REFRESHED, this.#controller.signal);
    const states = {};
    for (const { state } of page.jobs) states[state] = (states[state] ?? 0) + 1;
    const [rows, isPart] = [page.jobs, Boolean(page.next)];
    return { states, at_least: isPart ? Object.keys(states) : [], rows, isPart };
  }

  #end(next) {
    this.#cursor = next;
    this.#set({ isAll: !next });
  }

  /**
   * Run a read. If the read fails, show the error. If the error is transient, refresh the list
   * after a pause.
   */
  async #tryRead(read) {
    try {
      await read();
      const rows = [...this.#rows.values()].sort((one, other) => (one.id < other.id ? 1 : -1));
      this.#set({ rows, error: null, isLoading: false });
    } catch (error) {
      this.#set({ error, isLoading: false });
      clearTimeout(this.#retry);
      if (isTransient(error)) this.#retry = setTimeout(() => this.#watch.refresh(), RETRY_MS);
    }
  }

  #set(changes) {
    if (this.#controller.signal.aborted) return;
    this.state = { ...this.state, ...changes };
    this.#onChange(this.state);
  }
}

/**
 * Return the list of a workspace's jobs that match a filter. If the workspace or the filter
 * changes, `useJobList` creates a new list. With `ids`, the list has only jobs with these ids, and
 * reads nothing while `ids` is null. `countFilter` selects the jobs to count by state.
 */
export function useJobList(workspaceId, filter, countFilter, ids) {
  const [state, setState] = useState(null);
  const list = useRef(null);
  // create the list before painting, because a person may immediately press a button of the new
  // list
  useLayoutEffect(() => {
    if (ids === null) return setState(null);
    const jobList = new JobList(workspaceId, { ...filter, ids }, countFilter, setState);
    list.current = jobList;
    setState(jobList.state);
    jobList.start();
    return () => jobList.close();
  }, [JSON.stringify([workspaceId, filter, countFilter, ids === null])]);
  useLayoutEffect(() => void (ids && list.current.limitTo(ids)), [String(ids)]);
  return { list, state: state ?? INITIAL_STATE };
}
