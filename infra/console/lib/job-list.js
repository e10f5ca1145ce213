// The jobs of a workspace as a live list: keyset pages, events applied as they come, counts.

import { jobs as api, supabase } from "../api.js";
import { applyEvent } from "./jobs/sequence.js";
import { watchWorkspace } from "./jobs/watch.js";
import { stateOfJob, statusOf } from "./states.js";
import { isPassing } from "./store.js";
import { useLayoutEffect, useRef, useState } from "./ui.js";

/** What a list shows before its first page. */
export const UNREAD = {
  /** @type {any[]} */
  rows: [],
  /** @type {any} */
  counts: null,
  isLoading: true,
  isLoadingMore: false,
  isAll: false,
  /** @type {any} */
  error: null,
  newer: 0,
  missed: 0,
  freshness: "catching-up",
  isPaused: false,
};

const PAGE = 100;
const FLUSH_MS = 200;
const RECOUNT_MS = 1200;
const RETRY_MS = 5000;
const FIRST_MS = 1500; // after which the list is read although the feed did not answer yet

/** @typedef {Record<string, any>} Filter As the address has it. */
/** @typedef {Record<string, any>} Row A row of `jobs`. */
/** @typedef {import("./jobs/types.js").JobEvent} JobEvent */

/** One list's state and its moves; drawn by JobMonitor. */
export class JobList {
  #workspaceId;
  #filter;
  #changed;
  /** @type {import("./jobs/watch-workspace.js").WorkspaceWatch | null} */
  #watch = null;
  #rows = new Map(); // id -> row, newest first
  /** @type {string | null} */
  #cursor = null;
  #dirty = new Set();
  #controller = new AbortController();
  /** @type {() => string[]} */
  #visible = () => [];
  #begun = false;
  #loading = false;
  #refreshing = false;
  #again = false;

  state = UNREAD;

  constructor(
    /** @type {string} */ workspaceId,
    /** @type {Filter} */ filter,
    /** @type {(state: any) => void} */ changed,
  ) {
    this.#workspaceId = workspaceId;
    this.#filter = filter;
    this.#changed = changed;
  }

  start() {
    this.#watch = watchWorkspace(supabase(), this.#workspaceId, {
      onEvent: (event) => this.#onEvent(event),
      // once the feed misses nothing: what was read before would have to be read again
      onResync: () => (this.#begun ? this.refresh() : this.load()),
      onChange: ({ freshness }) => this.#set({ freshness }),
    });
    this.#later("first", FIRST_MS, () => this.#begun || this.load());
  }

  close() {
    this.#controller.abort();
    this.#watch?.close();
    for (const timer of this.#pending.values()) clearTimeout(timer);
  }

  /** Which ids are on screen: those are read again when something happens to them. */
  watchVisible(/** @type {() => string[]} */ visible) {
    this.#visible = visible;
  }

  /** The first page, from nothing; an error stays until there is an answer. */
  async load() {
    this.#begun = true;
    this.#rows.clear();
    this.#cursor = null;
    this.#set({ rows: [], isLoading: true, isAll: false, newer: 0 });
    await this.more();
    this.#recount();
  }

  /** The next page. */
  async more() {
    if (this.#loading || this.state.isAll) return;
    this.#loading = true;
    this.#set({ isLoadingMore: true });
    try {
      const isSorted = Boolean(this.#filter.sort);
      const from = isSorted ? { offset: this.#rows.size } : { cursor: this.#cursor };
      const page = await this.#page({ ...from, limit: PAGE });
      for (const row of page.jobs) this.#rows.set(row.id, newest(this.#rows.get(row.id), row));
      this.#cursor = page.next_cursor;
      this.#set({
        rows: [...this.#rows.values()],
        isAll: isSorted ? !page.more : page.next_cursor === null,
        isCut: Boolean(page.cut),
        error: null,
        isLoading: false,
        isLoadingMore: false,
      });
    } catch (error) {
      this.#set({ error, isLoading: false, isLoadingMore: false });
      this.#retryLater(error);
    } finally {
      this.#loading = false;
    }
    await this.#catchUp();
  }

  /** A server that was unavailable is asked again, whether or not Realtime noticed. */
  #retryLater(/** @type {any} */ error) {
    if (isPassing(error))
      this.#later("retry", RETRY_MS, () => (this.#rows.size === 0 ? this.load() : this.refresh()));
  }

  async #catchUp() {
    if (!this.#again || this.#controller.signal.aborted) return;
    this.#again = false;
    await this.refresh();
  }

  /** Read the top and what is on screen again, keeping the place. */
  async refresh() {
    // one at a time: of two, the older answer could come last and drop what the newer had found
    if (this.state.isLoading || this.#refreshing) this.#again = true;
    if (this.state.isPaused || this.state.isLoading || this.#refreshing) return;
    if (this.#filter.sort) return void (await this.#sortAgain());
    this.#refreshing = true;
    try {
      const page = await this.#page({ limit: PAGE });
      const fresh = new Map(page.jobs.map((row) => [row.id, row]));
      const oldest = page.jobs.at(-1)?.created_at ?? "9"; // a slice without a match says nothing of what is older
      const kept = [...this.#rows.values()].filter(
        (row) => !fresh.has(row.id) && page.next_cursor !== null && row.created_at <= oldest,
      );
      const before = this.#rows;
      const rows = /** @type {Array<[string, any]>} */ ([
        ...page.jobs.map((row) => [row.id, newest(before.get(row.id), row)]),
        ...kept.map((row) => [row.id, row]),
      ]);
      this.#rows = new Map(rows);
      // a first slice with few matches, or none, does not undo how far the list was looked through
      const isSlice = page.next_cursor !== null && page.jobs.length < PAGE;
      if (kept.length === 0 && !(isSlice && (this.#cursor || this.state.isAll))) {
        this.#cursor = page.next_cursor;
        this.#set({ isAll: page.next_cursor === null });
      }
      for (const id of this.#visible())
        if (!fresh.has(id) && this.#rows.has(id)) this.#dirty.add(id);
      this.#set({ rows: [...this.#rows.values()], newer: 0, error: null });
      this.#flushSoon();
      this.#recount();
    } catch (error) {
      this.#set({ error });
      this.#retryLater(error);
    } finally {
      this.#refreshing = false;
    }
    await this.#catchUp();
  }

  /** Of a list in another order than its age everything that is shown is read again. */
  async #sortAgain() {
    this.#refreshing = true;
    try {
      const page = await this.#page({ limit: Math.min(200, Math.max(PAGE, this.#rows.size)) });
      this.#rows = new Map(page.jobs.map((row) => [row.id, newest(this.#rows.get(row.id), row)]));
      this.#set({
        rows: [...this.#rows.values()],
        isAll: !page.more,
        isCut: Boolean(page.cut),
        newer: 0,
        error: null,
      });
      this.#recount();
    } catch (error) {
      this.#set({ error });
      this.#retryLater(error);
    } finally {
      this.#refreshing = false;
    }
  }

  pause() {
    this.#set({ isPaused: true, missed: 0 });
  }

  resume() {
    this.#set({ isPaused: false, missed: 0 });
    this.refresh();
  }

  /** A page of the filter, sort and workspace of this list. */
  #page(/** @type {object} */ place) {
    return api.list({ query: { ...this.#query(), ...place }, signal: this.#controller.signal });
  }

  #query() {
    return { workspace_id: this.#workspaceId, internal: false, ...this.#filter };
  }

  #onEvent(/** @type {JobEvent} */ event) {
    if (this.state.isPaused) return this.#set({ missed: this.state.missed + 1 });
    const row = this.#rows.get(event.job_id);
    if (row) {
      this.#rows.set(row.id, applyEvent(row, event));
      if (this.#visible().includes(row.id)) this.#dirty.add(row.id);
      this.#later("show", FLUSH_MS / 2, () => this.#show());
      this.#flushSoon();
    } else if (this.#mayBelong(event)) {
      this.#set({ newer: this.state.newer + 1 });
      this.#later("top", FLUSH_MS, () => this.#takeNewer());
    }
    this.#recount();
  }

  #mayBelong(/** @type {{type: string, data: any}} */ { type, data }) {
    const { state, job_type: jobType } = this.#filter;
    if (state) return data.status === (statusOf(state) ?? "pending");
    if (type !== "job.created") return false;
    return !jobType || !data.job_type || data.job_type === jobType;
  }

  /** While the top is on screen new jobs come in by themselves; else a button offers them. */
  #takeNewer() {
    const [first] = this.#rows.keys();
    if (!first || this.#visible().includes(first)) this.refresh();
  }

  #show() {
    const { state } = this.#filter;
    for (const [id, row] of this.#rows)
      if (state && stateOfJob(row) !== state) this.#rows.delete(id);
    this.#set({ rows: [...this.#rows.values()] });
  }

  #flushSoon() {
    if (this.#dirty.size > 0) this.#later("flush", FLUSH_MS, () => this.#flush());
  }

  async #flush() {
    if (document.visibilityState !== "visible")
      return this.#later("flush", 1000, () => this.#flush());
    const ids = [...this.#dirty].slice(0, 100);
    for (const id of ids) this.#dirty.delete(id);
    try {
      const found = await api.byIds(ids);
      for (const row of found)
        if (this.#rows.has(row.id)) this.#rows.set(row.id, newest(this.#rows.get(row.id), row));
      this.#show();
    } catch (error) {
      this.#set({ error });
    }
    return this.#flushSoon();
  }

  #recount() {
    this.#later("count", this.state.counts ? RECOUNT_MS : 0, async () => {
      try {
        const { job_type, queue, parent_id } = this.#filter;
        const counts = await api.counts(this.#workspaceId, { job_type, queue, parent_id });
        this.#set({ counts });
      } catch (error) {
        this.#set({ error });
      }
    });
  }

  #pending = new Map();

  #later(/** @type {string} */ name, /** @type {number} */ wait, /** @type {() => void} */ run) {
    if (this.#pending.has(name) || this.#controller.signal.aborted) return;
    const timer = setTimeout(() => {
      this.#pending.delete(name);
      run();
    }, wait);
    this.#pending.set(name, timer);
  }

  #set(/** @type {Record<string, any>} */ changes) {
    if (this.#controller.signal.aborted) return;
    this.state = { ...this.state, ...changes };
    this.#changed(this.state);
  }
}

const newest = (/** @type {Row | undefined} */ known, /** @type {Row} */ row) =>
  known && (known.last_seq ?? 0) > (row.last_seq ?? 0)
    ? known
    : { ...row, glimpse: row.glimpse ?? known?.glimpse };

/** The list of a workspace under a filter; a new one when either changes. */
export function useJobList(/** @type {string} */ workspaceId, /** @type {Filter} */ filter) {
  const key = JSON.stringify([workspaceId, filter]);
  const [state, setState] = useState(null);
  const list = useRef(null);
  // before painting: a button pressed at once must find the list it belongs to
  useLayoutEffect(() => {
    const made = new JobList(workspaceId, filter, setState);
    list.current = made;
    setState(made.state);
    made.start();
    return () => made.close();
  }, [key]);
  return {
    list,
    state: state ?? UNREAD,
  };
}
