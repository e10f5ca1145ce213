// A long list of records: keyset pages, virtual rows, selection; read again when jobs end.

import { supabase } from "../../api.js";
import { watchWorkspace } from "../../lib/jobs.js";
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

/**
 * The records of a table under a filter: `{rows, next, error, isLoading, more, refresh, freshness}`.
 *
 * @template {keyof Listed} T
 * @param {T} table
 * @param {string} workspaceId
 * @param {RecordFilter} filter
 * @param {string[]} jobTypes
 * @returns {Records<Listed[T]>}
 */
export function useRecords(table, workspaceId, filter, jobTypes) {
  const key = JSON.stringify([table, workspaceId, filter]);
  const [state, setState] = useState(
    /** @type {RecordsState<Listed[T]>} */ ({
      rows: [],
      next: null,
      error: null,
      isLoading: true,
    }),
  );
  const [freshness, setFreshness] = useState("catching-up");
  const turn = useRef(0);
  const now = useRef(state);
  now.current = state;

  const load = async (/** @type {boolean} */ keep) => {
    const mine = (turn.current += 1);
    if (!keep) setState({ rows: [], next: null, error: null, isLoading: true });
    try {
      let found = await page(table, workspaceId, filter);
      const { rows } = found;
      while (keep && found.next && rows.length < now.current.rows.length) {
        found = await page(table, workspaceId, { ...filter, cursor: found.next });
        rows.push(...found.rows);
      }
      if (mine === turn.current)
        setState({ rows, next: found.next, error: null, isLoading: false });
    } catch (error) {
      if (mine === turn.current) setState((before) => ({ ...before, error, isLoading: false }));
    }
  };
  const more = async () => {
    if (!now.current.next || now.current.isLoading) return;
    const mine = turn.current;
    setState((before) => ({ ...before, isLoading: true }));
    try {
      const found = await page(table, workspaceId, { ...filter, cursor: now.current.next });
      if (mine === turn.current)
        setState((before) => ({
          rows: [...before.rows, ...found.rows],
          next: found.next,
          error: null,
          isLoading: false,
        }));
    } catch (error) {
      if (mine === turn.current) setState((before) => ({ ...before, error, isLoading: false }));
    }
  };
  useEffect(() => {
    load(false);
  }, [key]);
  useEffect(() => {
    /** @type {number | null} */
    let timer = null;
    const soon = /** @type {() => void} */ (
      () =>
        (timer ??= setTimeout(() => {
          timer = null;
          load(true);
        }, 400))
    );
    const watch = watchWorkspace(supabase(), workspaceId, {
      onEvent: ({ type }) => type === "job.completed" && soon(),
      onResync: ({ first }) => (first ? undefined : soon()),
      onChange: (changed) => setFreshness(changed.freshness),
    });
    return () => {
      clearTimeout(/** @type {number} */ (timer));
      watch.close();
    };
  }, [key, String(jobTypes)]);
  return { ...state, freshness, more, refresh: () => load(true) };
}
