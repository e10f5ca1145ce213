// A long list of records: keyset pages, virtual rows, selection; read again when jobs end.

import { supabase } from "../../api.js";
import { watchWorkspace } from "../../lib/jobs.js";
import { useWatched } from "../../lib/live.js";
import { useEffect, useRef, useState } from "../../lib/ui.js";
import { page } from "./data.js";

/** @import { Listed, Place, RecordFilter } from "./data.js" */
/**
 * @template R
 * @typedef {{rows: R[], next: Place | null, error: Error | null, isLoading: boolean}} RecordsState
 */
/**
 * @template R
 * @typedef {RecordsState<R> & {freshness: string, more: () => Promise<void>, refresh: () => Promise<void>}} Records
 */

/** @type {RecordsState<any>} */
const LOADING = { rows: [], next: null, error: null, isLoading: true };

/**
 * The records of a table under a filter: `{rows, next, error, isLoading, more, refresh, freshness}`.
 *
 * @template {keyof Listed} T
 * @param {T} table
 * @param {string} workspaceId
 * @param {RecordFilter} filter
 * @returns {Records<Listed[T]>}
 */
export function useRecords(table, workspaceId, filter) {
  const key = JSON.stringify([table, workspaceId, filter]);
  const [state, setState] = useState(/** @type {RecordsState<Listed[T]>} */ (LOADING));
  const turn = useRef(0);
  const now = useRef(state);
  now.current = state;

  /** @type {(find: () => Promise<{rows: Listed[T][], next: Place | null}>) => Promise<void>} */
  const show = async (find) => {
    const mine = turn.current;
    try {
      const found = await find();
      if (mine === turn.current) setState({ ...found, error: null, isLoading: false });
    } catch (error) {
      if (mine === turn.current) setState((before) => ({ ...before, error, isLoading: false }));
    }
  };
  const load = async (/** @type {boolean} */ keep) => {
    turn.current += 1;
    if (!keep) setState(LOADING);
    await show(async () => {
      let { rows, next } = await page(table, workspaceId, filter);
      while (keep && next && rows.length < now.current.rows.length) {
        const found = await page(table, workspaceId, { ...filter, cursor: next });
        rows = [...rows, ...found.rows];
        next = found.next;
      }
      return { rows, next };
    });
  };
  const more = async () => {
    const { rows, next: cursor, isLoading } = now.current;
    if (!cursor || isLoading) return;
    setState((before) => ({ ...before, isLoading: true }));
    await show(async () => {
      const found = await page(table, workspaceId, { ...filter, cursor });
      return { rows: [...rows, ...found.rows], next: found.next };
    });
  };
  useEffect(() => {
    load(false);
  }, [key]);
  const refresh = () => load(true);
  const freshness = useWatched(
    { refresh },
    (options) =>
      watchWorkspace(supabase(), workspaceId, {
        ...options,
        onEvent: ({ type }) => type === "job.completed" && options.onEvent(),
      }),
    [key],
  );
  return { ...state, freshness, more, refresh };
}
