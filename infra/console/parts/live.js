// Reads that are repeated when a watch says so: of one thing, or of pages of things.

import { data, supabase, unwrap } from "../api.js";
import { watchWorkspace } from "../lib/jobs/watch.js";
import { usePolling, useRead } from "../lib/store.js";
import { useEffect, useRef, useState } from "../lib/ui.js";

/** Read again whenever a watch finds that something may have changed; the watch's freshness. */
export function useWatched(read, start, inputs) {
  const [freshness, setFreshness] = useState("catching-up");
  const latest = useRef(read);
  latest.current = read;
  useEffect(() => {
    const watch = start({
      // a read under way would be aborted: events that come faster than answers would show nothing
      async onRead() {
        while (latest.current.isLoading) await new Promise((then) => setTimeout(then, 50));
        latest.current.refresh();
      },
      onChange: (changed) => setFreshness(changed.freshness),
    });
    return () => watch.close();
  }, inputs);
  return freshness;
}

/** Pages of something of a workspace, read again when one of its jobs changes. */
export function useLivePages(workspaceId, list, search = "") {
  const [shown, setShown] = useState(null);
  const of = `${workspaceId} ${search}`;
  // another workspace, or search, begins with its first page
  const cursors = shown?.of === of ? shown.after : [undefined];
  const read = useRead(
    (signal) => Promise.all(cursors.map((after) => list(workspaceId, after, signal))),
    [of, cursors.length],
  );
  const start = (options) => watchWorkspace(supabase(), workspaceId, options);
  const freshness = useWatched(read, start, [workspaceId]);
  const next = read.value?.at(-1)?.next;
  return {
    ...read,
    freshness,
    more: next ? () => setShown({ of, after: [...cursors, next] }) : null,
  };
}

/** The latest hundred rows of a workspace, read again every so often. */
export function useLatest(table, workspaceId, column, everyMs) {
  const rows = () => data().from(table).select("*").eq("workspace_id", workspaceId);
  const latest = () => rows().order(column, { ascending: false }).limit(100);
  const read = useRead((signal) => unwrap(latest(), signal), [workspaceId]);
  usePolling(read, everyMs);
  return read;
}
