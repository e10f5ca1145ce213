// Hooks that read an object or pages of a list, and repeat the read after changes.

import { data, supabase, unwrap } from "../api.js";
import { isHidden, onWake } from "../lib/jobs/page.js";
import { watchTopic } from "../lib/jobs/watch.js";
import { changes, useFetch } from "../lib/store.js";
import { useEffect, useRef, useState } from "../lib/ui.js";

/**
 * Return a function that repeats a read after the read in flight has ended, because frequent events
 * would otherwise abort each read.
 */
function useReload(read) {
  const latest = useRef(read);
  const isRequested = useRef(false);
  latest.current = read;
  const refresh = () => {
    if (latest.current.isLoading) isRequested.current = true;
    else latest.current.refresh();
  };
  useEffect(() => {
    if (read.isLoading || !isRequested.current) return;
    isRequested.current = false;
    refresh();
  }, [read.isLoading]);
  return refresh;
}

/** Repeat a read when the data of the page may be old. If `isOn` is false, do not repeat the read. */
export function useRefresh(read, isOn = true) {
  const refresh = useReload(read);
  useEffect(() => (isOn ? changes.subscribe(refresh) : undefined), [isOn]);
}

/** Return whether the page is visible in the browser. */
function usePageVisible() {
  const [isVisible, setIsVisible] = useState(!isHidden());
  useEffect(() => {
    const update = () => setIsVisible(!isHidden());
    document.addEventListener("visibilitychange", update);
    return () => document.removeEventListener("visibilitychange", update);
  }, []);
  return isVisible;
}

/**
 * Repeat a read after changes that Realtime topics report (`workspace:…`, `session:…`, `job:…`).
 * Return how fresh the data of the read is. If `isLive` is false, the object changes only with a
 * Realtime message, so a hidden page does not follow the object.
 */
export function useTopicRefresh(read, topics, isLive = true) {
  const [freshness, setFreshness] = useState("catching-up");
  const refresh = useReload(read);
  const isVisible = usePageVisible();
  const followed = topics.filter((topic) => topic && (isLive || isVisible));
  useEffect(() => {
    if (followed.length === 0) {
      const stop = new AbortController();
      onWake(refresh, stop.signal);
      return () => stop.abort();
    }
    let joining = followed.length; // topics whose join has neither succeeded nor failed
    const watches = followed.map((topic, at) => {
      let reads = 0;
      return watchTopic(supabase(), topic, {
        isLive,
        isPausable: topic.startsWith("workspace:"),
        silence: Infinity,
        onRead: () => {
          reads += 1;
          if (reads === 1) return; // the component has already done the first read
          if (reads === 2) joining -= 1;
          if (joining === 0) refresh(); // one read after all joins
        },
        onEvent: ({ type }) => type === "job.progress" && refresh(),
        onChange: (changed) => at === 0 && setFreshness(changed.freshness),
      });
    });
    return () => watches.forEach((watch) => watch.close());
  }, [followed.join(" "), isLive]);
  return freshness;
}

/** Return the topic of a workspace, and the topics of at most ten of the workspace's sessions. */
const topicsOf = (workspaceId, sessions) => [
  `workspace:${workspaceId}`,
  ...sessions.slice(0, 10).map((session) => `session:${session}`),
];

/**
 * Read pages of a workspace's list, and read the pages again when a job changes.
 *
 * - `isLive(pages)` returns whether a row in the pages belongs to a running job.
 * - `liveOf(pages)` returns the session ids of the running jobs, because only the Realtime topics
 *   of sessions report progress.
 */
export function useLivePages(
  workspaceId,
  list,
  { search = "", liveOf = () => [], isLive = (pages) => liveOf(pages).length > 0 } = {},
) {
  const [shown, setShown] = useState(null);
  const subject = `${workspaceId} ${search}`;
  // if the workspace or the search text has changed, begin with the first page of the list
  const cursors = shown?.subject === subject ? shown.after : [undefined];
  const read = useFetch(
    (signal) => Promise.all(cursors.map((after) => list(workspaceId, after, signal))),
    [subject, cursors.length],
  );
  const pages = read.value ?? [];
  const freshness = useTopicRefresh(read, topicsOf(workspaceId, liveOf(pages)), isLive(pages));
  const next = read.value?.at(-1)?.next;
  const isRead = read.value !== undefined && read.error === null;
  return {
    ...read,
    // if the last read failed, the data of the page may be old although Realtime is connected
    freshness: freshness === "live" && !isRead ? "catching-up" : freshness,
    more: next ? () => setShown({ subject, after: [...cursors, next] }) : null,
  };
}

/**
 * Read the latest hundred rows of a table in a workspace. `isLive(row)` returns whether the row
 * belongs to a running job.
 */
export function useLatest(table, workspaceId, column, isLive = () => false) {
  const rows = () => data().from(table).select("*").eq("workspace_id", workspaceId);
  const latest = () => rows().order(column, { ascending: false }).limit(100);
  const read = useFetch((signal) => unwrap(latest(), signal), [workspaceId]);
  useTopicRefresh(read, topicsOf(workspaceId, []), read.value?.some(isLive));
  return read;
}
