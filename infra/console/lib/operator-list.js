// The jobs of all workspaces for people on call: pages read again every few seconds, newest first.
// It moves as JobList does, so that JobMonitor draws either.

import { operator } from "../api.js";
import { isAway } from "./store.js";

const EVERY_MS = 3000;

/** What either list shows before its first page. */
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

export class OperatorList {
  #filter;
  #changed;
  #cursor = null;
  #timer = 0;
  #controller = new AbortController();
  #loading = false;

  state = UNREAD;

  constructor(
    /** @type {Record<string, any>} */ filter,
    /** @type {(state: any) => void} */ changed,
  ) {
    const { state, workspace_id: workspace, job_type: type, queue, search } = filter;
    const wanted = {
      workspace_id: workspace,
      job_type: type,
      queue,
      search,
      state: state && [state],
    };
    this.#filter = Object.fromEntries(Object.entries(wanted).filter(([, value]) => value));
    this.#changed = changed;
  }

  start() {
    this.load();
    this.#timer = setInterval(
      () => document.visibilityState === "visible" && !this.state.isPaused && this.refresh(),
      EVERY_MS,
    );
  }

  close() {
    this.#controller.abort();
    clearInterval(this.#timer);
  }

  watchVisible() {}

  async load() {
    this.#cursor = null;
    this.#set({ rows: [], isLoading: true, error: null, isAll: false });
    await this.more();
    await this.#count();
  }

  async more() {
    if (this.#loading || this.state.isAll) return;
    await this.#read(async () => {
      const page = await operator.jobs(this.#filter, this.#cursor, this.#controller.signal);
      this.#cursor = page.next;
      const known = new Set(this.state.rows.map((row) => row.id));
      this.#set({
        rows: [
          ...this.state.rows,
          ...page.jobs.filter((/** @type {any} */ row) => !known.has(row.id)),
        ],
        isAll: page.next === null,
      });
    });
  }

  /** The first page again; what was loaded below it stays. */
  async refresh() {
    if (this.#loading) return;
    await this.#read(async () => {
      const page = await operator.jobs(this.#filter, null, this.#controller.signal);
      const oldest = page.jobs.at(-1)?.id ?? "~";
      const below = page.next === null ? [] : this.state.rows.filter((row) => row.id < oldest);
      this.#set({
        rows: [...page.jobs, ...below],
        ...(below.length === 0 && { isAll: page.next === null }),
      });
      if (below.length === 0) this.#cursor = page.next;
    });
    await this.#count();
  }

  pause() {
    this.#set({ isPaused: true });
  }

  resume() {
    this.#set({ isPaused: false });
    this.refresh();
  }

  async #count() {
    try {
      const { states, at_least } = await operator.counts(this.#controller.signal);
      this.#set({ counts: { states, at_least } });
    } catch (error) {
      this.#set({ error });
    }
  }

  async #read(/** @type {() => Promise<void>} */ run) {
    this.#loading = true;
    this.#set({ isLoadingMore: true });
    try {
      await run();
      this.#set({ error: null, isLoading: false, isLoadingMore: false, freshness: "polling" });
    } catch (error) {
      this.#set({
        error,
        isLoading: false,
        isLoadingMore: false,
        freshness: isAway(error) ? "offline" : "polling",
      });
    } finally {
      this.#loading = false;
    }
  }

  #set(/** @type {Record<string, any>} */ changes) {
    if (this.#controller.signal.aborted) return;
    this.state = { ...this.state, ...changes };
    this.#changed(this.state);
  }
}
