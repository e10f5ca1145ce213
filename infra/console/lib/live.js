// Reads that are repeated when a watch hears of something: of one thing, or of pages of things.

import { supabase } from "../api.js";
import { watchWorkspace } from "./jobs/watch.js";
import { useRead } from "./store.js";
import { useEffect, useRef, useState } from "./ui.js";

const SOON_MS = 400;

/**
 * Read again soon after each event of a watch, several events at once.
 *
 * @param {{refresh: () => void, isLoading?: boolean}} read
 * @param {(options: {onEvent: () => void, onResync: () => void,
 *   onChange: (state: {freshness: string}) => void}) => {close(): void}} start Starts the watch.
 * @param {any[]} inputs Another watch is started when one of them changes.
 * @returns {string} The watch's freshness.
 */
export function useWatched(read, start, inputs) {
  const [freshness, setFreshness] = useState("catching-up");
  const latest = useRef(read);
  latest.current = read;
  useEffect(() => {
    /** @type {any} */
    let timer = null;
    const soon = () =>
      (timer ??= setTimeout(() => {
        timer = null;
        // a read under way would be aborted: events that come faster than answers would show nothing
        if (latest.current.isLoading) soon();
        else latest.current.refresh();
      }, SOON_MS));
    const watch = start({
      onEvent: soon,
      onResync: soon, // the first time too: what was read may be older than where the watch begins
      onChange: (changed) => setFreshness(changed.freshness),
    });
    return () => {
      clearTimeout(timer);
      watch.close();
    };
  }, inputs);
  return freshness;
}

/**
 * Pages of something of a workspace, read again when one of its jobs changes.
 *
 * @template {{next?: any}} P
 * @param {string} workspaceId
 * @param {(workspaceId: string, after: any, signal: AbortSignal) => Promise<P>} list A page after a cursor.
 * @returns {import("./store.js").Read<P[]> & {freshness: string, more: (() => void) | null}} `more` adds
 *   the next page; null when there is none.
 */
export function useLivePages(workspaceId, list) {
  const [shown, setShown] = useState(/** @type {{of: string, after: any[]} | null} */ (null));
  // another workspace begins with its first page
  const cursors = shown?.of === workspaceId ? shown.after : [undefined];
  const read = useRead(
    (signal) => Promise.all(cursors.map((after) => list(workspaceId, after, signal))),
    [workspaceId, cursors.length],
  );
  const freshness = useWatched(
    read,
    (options) => watchWorkspace(supabase(), workspaceId, options),
    [workspaceId],
  );
  const next = read.value?.at(-1)?.next;
  return {
    ...read,
    freshness,
    more: next ? () => setShown({ of: workspaceId, after: [...cursors, next] }) : null,
  };
}
