// Reads that are repeated when a watch says so: of one thing, or of pages of things.

import { data, supabase, unwrap } from "../api.js";
import { isHidden, onWake } from "../lib/jobs/page.js";
import { watchTopic } from "../lib/jobs/watch.js";
import { useFetch } from "../lib/store.js";
import { loadStyles } from "../lib/styles.js";
import { useEffect, useRef, useState } from "../lib/ui.js";

loadStyles("/styles/apps.css");

/** Reads again, but not amid a read: events that come faster than answers would show nothing. */
function useReload(read) {
  const latest = useRef(read);
  const isWanted = useRef(false);
  latest.current = read;
  const again = () => {
    if (latest.current.isLoading) isWanted.current = true;
    else latest.current.refresh();
  };
  useEffect(() => {
    if (read.isLoading || !isWanted.current) return;
    isWanted.current = false;
    again();
  }, [read.isLoading]);
  return again;
}

/** Whether someone sees this page. */
function usePageVisible() {
  const [isVisible, setIsVisible] = useState(!isHidden());
  useEffect(() => {
    const look = () => setIsVisible(!isHidden());
    document.addEventListener("visibilitychange", look);
    return () => document.removeEventListener("visibilitychange", look);
  }, []);
  return isVisible;
}

/**
 * Read again whenever something happens of these topics (`workspace:…`, `session:…`, `job:…`); how
 * fresh it is. What is not live changes by a message alone, and is not followed where no one looks.
 */
export function useTopicRefresh(read, topics, isLive = true) {
  const [freshness, setFreshness] = useState("catching-up");
  const again = useReload(read);
  const isVisible = usePageVisible();
  const wanted = topics.filter((topic) => topic && (isLive || isVisible));
  useEffect(() => {
    if (wanted.length === 0) return onWake(again);
    const watches = wanted.map((topic, at) => {
      let isRead = true; // by who shows it
      return watchTopic(supabase(), topic, {
        isLive,
        onRead: () => (isRead ? (isRead = false) : again()),
        onEvent: ({ type }) => type === "job.progress" && again(),
        onChange: (changed) => at === 0 && setFreshness(changed.freshness),
      });
    });
    return () => watches.forEach((watch) => watch.close());
  }, [wanted.join(" "), isLive]);
  return freshness;
}

/** The topics of a workspace and of those of its sessions where something runs, a few at most. */
const topicsOf = (workspaceId, sessions) => [
  `workspace:${workspaceId}`,
  ...sessions.slice(0, 10).map((session) => `session:${session}`),
];

/**
 * Pages of something of a workspace, read again when one of its jobs changes. `isLive(pages)`: some
 * of it runs; `liveOf(pages)` are the sessions of what does, since percentages go to these alone.
 */
export function useLivePages(
  workspaceId,
  list,
  { search = "", liveOf = () => [], isLive = (pages) => liveOf(pages).length > 0 } = {},
) {
  const [shown, setShown] = useState(null);
  const of = `${workspaceId} ${search}`;
  // another workspace, or search, begins with its first page
  const cursors = shown?.of === of ? shown.after : [undefined];
  const read = useFetch(
    (signal) => Promise.all(cursors.map((after) => list(workspaceId, after, signal))),
    [of, cursors.length],
  );
  const pages = read.value ?? [];
  const freshness = useTopicRefresh(read, topicsOf(workspaceId, liveOf(pages)), isLive(pages));
  const next = read.value?.at(-1)?.next;
  const isRead = read.value !== undefined && read.error === null;
  return {
    ...read,
    // what could not be read is not live, whatever Realtime says
    freshness: freshness === "live" && !isRead ? "catching-up" : freshness,
    more: next ? () => setShown({ of, after: [...cursors, next] }) : null,
  };
}

/** The latest hundred rows of a workspace; `isLive(row)` says which change by themselves. */
export function useLatest(table, workspaceId, column, isLive = () => false) {
  const rows = () => data().from(table).select("*").eq("workspace_id", workspaceId);
  const latest = () => rows().order(column, { ascending: false }).limit(100);
  const read = useFetch((signal) => unwrap(latest(), signal), [workspaceId]);
  useTopicRefresh(read, topicsOf(workspaceId, []), read.value?.some(isLive));
  return read;
}
