// The jobs of a workspace as a live list: keyset pages, read again when something happens.

import { jobs as api, supabase } from "../api.js";
import { watchWorkspace } from "../lib/jobs/watch.js";
import { isTransient } from "../lib/store.js";
import { useLayoutEffect, useRef, useState } from "../lib/ui.js";

const INITIAL_STATE = {
  rows: [],
  counts: null,
  isLoading: true,
  isLoadingMore: false,
  isAll: false,
  error: null,
  freshness: "catching-up",
};

const PAGE = 100;
const RETRY_MS = 5000;
const MAX_REFRESHED = 200; // ids that one call reads again

/** One list's state and its moves; drawn by `JobMonitor`. */
class JobList {
  #workspaceId;
  #filter;
  #changed;
  #watch = null;
  #rows = new Map(); // id -> row, newest first
  #cursor = null;
  #controller = new AbortController();
  #visible = () => [];
  #retry = 0;

  state = INITIAL_STATE;

  constructor(workspaceId, filter, changed) {
    this.#workspaceId = workspaceId;
    this.#filter = { ...filter, workspace_id: workspaceId };
    this.#changed = changed;
  }

  start() {
    this.#watch = watchWorkspace(supabase(), this.#workspaceId, {
      onRead: async () => {
        await this.refresh();
        if (this.state.error) throw this.state.error; // the watch repeats it, and says so
        return this.state.rows.slice(0, PAGE); // while one runs, progress is read
      },
      onChange: ({ freshness }) => this.#set({ freshness }),
    });
  }

  close() {
    this.#controller.abort();
    this.#watch?.close();
    clearTimeout(this.#retry);
  }

  /** Which ids are on screen: those are read again when something happens. */
  watchVisible(visible) {
    this.#visible = visible;
  }

  /** The next page. */
  async more() {
    if (this.state.isLoadingMore || this.state.isAll || this.state.isLoading) return;
    this.#set({ isLoadingMore: true });
    await this.#attempt(async () => {
      const page = await this.#page(this.#filter, this.#cursor);
      for (const row of page.jobs) this.#rows.set(row.id, row);
      this.#end(page.next);
    });
    this.#set({ isLoadingMore: false });
  }

  /** The top and what is on screen again, keeping the place; the first time, the first page. */
  async refresh() {
    await this.#attempt(async () => {
      const counting = api.counts(this.#workspaceId, this.#plain());
      counting.catch(() => {}); // reported below
      const page = await this.#page(this.#filter, null);
      const top = new Set(page.jobs.map((row) => row.id));
      const oldest = page.jobs.at(-1)?.created_at ?? "9"; // without a match: unknown
      // found twice: the next page may come while rows are read again
      const below = () =>
        page.next
          ? [...this.#rows.values()].filter((row) => !top.has(row.id) && row.created_at <= oldest)
          : [];
      const seen = new Set(this.#visible());
      const ids = below()
        .map((row) => row.id)
        .filter((id) => seen.has(id));
      const refreshed = new Set(ids.slice(0, MAX_REFRESHED));
      const fresh = await this.#refreshed([...refreshed]);
      const kept = below()
        .filter((row) => !refreshed.has(row.id) || fresh.has(row.id))
        .map((row) => fresh.get(row.id) ?? row);
      this.#rows = new Map([...page.jobs, ...kept].map((row) => [row.id, row]));
      if (kept.length === 0) this.#end(page.next);
      this.#set({ counts: await counting });
    });
  }

  /** Those of some rows that still match. */
  async #refreshed(ids) {
    if (ids.length === 0) return new Map();
    const { jobs } = await this.#page({ ...this.#filter, ids }, null);
    return new Map(jobs.map((row) => [row.id, row]));
  }

  #page = (filter, cursor) => api.page(filter, cursor, PAGE, this.#controller.signal);

  /** What the counts above the list are narrowed by. */
  #plain() {
    const { job_type, queue } = this.#filter;
    return Object.fromEntries(Object.entries({ job_type, queue }).filter(([, value]) => value));
  }

  #end(next) {
    this.#cursor = next;
    this.#set({ isAll: !next });
  }

  /** An error is shown, and a server that did not answer is asked again. */
  async #attempt(read) {
    try {
      await read();
      this.#set({ rows: [...this.#rows.values()], error: null, isLoading: false });
    } catch (error) {
      this.#set({ error, isLoading: false });
      clearTimeout(this.#retry);
      if (isTransient(error)) this.#retry = setTimeout(() => this.#watch.refresh(), RETRY_MS);
    }
  }

  #set(changes) {
    if (this.#controller.signal.aborted) return;
    this.state = { ...this.state, ...changes };
    this.#changed(this.state);
  }
}

/** The list of a workspace under a filter; a new one when either changes. */
export function useJobList(workspaceId, filter) {
  const [state, setState] = useState(null);
  const list = useRef(null);
  // before painting: a button pressed at once must find the list it belongs to
  useLayoutEffect(() => {
    const made = new JobList(workspaceId, filter, setState);
    list.current = made;
    setState(made.state);
    made.start();
    return () => made.close();
  }, [JSON.stringify([workspaceId, filter])]);
  return { list, state: state ?? INITIAL_STATE };
}
