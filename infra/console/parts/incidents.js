// Shows problems of the whole system at the top of every page, a line for each problem.

import { session, outage, supabase, engine, problems } from "../api.js";
import { atLeast, pluralize, timeOfDay } from "../lib/format.js";
import { watchWorkspace } from "../lib/jobs/watch.js";
import { isHidden } from "../lib/jobs/page.js";
import { currentLocation, listAddress } from "../lib/router.js";
import { changes, useFetch, useStore } from "../lib/store.js";
import { setTitle } from "../lib/title.js";
import {
  foldButton,
  html,
  isPhone,
  useEffect,
  useLayoutEffect,
  useMemo,
  useState,
} from "../lib/ui.js";
import { Remedy } from "./bulk-actions.js";
import { useFocusKeeper } from "./dialog.js";
import { linkTo } from "./holders.js";
import { Icon } from "./icons.js";
import { useRefresh } from "./live.js";
import { Advice, briefOf, countJobs, useLines } from "./problem-lines.js";
import { Sentence } from "./when.js";

/** Words and icons for kinds of `attention`. */
const KINDS = { failed: "failed", no_worker: "waiting", silent: "silent", retrying: "retrying" };
const MARKS = { failed: "cross", no_worker: "cross", silent: "clock", retrying: "again" };

const QUIET_MS = 30_000; // milliseconds between two reads of a page if no job changes
const BUSY_MS = 5000; // minimum milliseconds between two reads that changes of jobs cause
const FINDINGS_MS = 20_000; // minimum milliseconds between two reads of problems
const LATE_MS = 15_000; // a slow machine or network may join a topic this late

const notifyPage = () => isHidden() || changes.set((count) => count + 1);

const outageLine = (since) =>
  `Requests of this page have failed since ${timeOfDay(since)}. ` +
  "`minutehand doctor` shows why.";

const NO_REALTIME =
  "Realtime delivers no changes, so pages read every few seconds. `minutehand doctor` shows why.";

const toneOfAll = (lines) => lines.map(({ tone }) => tone).sort()[0] ?? "waiting";

/** Maximum number of problems that the closed bar names. */
const mostNamed = () => (isPhone() ? 3 : 6);

/** Name the worst problems, each with its number of jobs of each kind. */
function summaryOf(lines) {
  const rest = lines.length - mostNamed();
  const named = lines.slice(0, mostNamed()).map((line) => {
    const { subject, count } = briefOf(line);
    const kinds = Map.groupBy(line.groups ?? [], ({ kind }) => kind);
    const counts = [...kinds].map(([kind, groups]) => {
      const isMore = groups.some(({ more }) => more);
      return `${atLeast(countJobs(groups), isMore)} ${KINDS[kind]}`;
    });
    const name = counts.length > 0 ? subject : subject + count;
    return html` ·${" "}
      <span class="part">
        <span class="strong" data-tone=${line.tone}>${name.replaceAll("`", "")}</span>${" "}
        ${counts.join(", ")}
      </span>`;
  });
  return [...named, rest > 0 && ` · ${rest} more`];
}

const NOT_READ = "Problems could not be read. `minutehand doctor` shows why.";

/**
 * Section that lists the current problems. Each workspace has its own section. To users who may see
 * only an app's pages, the section shows only whether there is an outage.
 */
export function Incidents({ workspace, isApp }) {
  const { user } = useStore(session);
  const { path, query } = useStore(currentLocation);
  const last = useMemo(() => ({ at: -Infinity }), [isApp]);
  // another workspace or user must not see these findings and filters
  useLayoutEffect(
    () => () => {
      problems.set({ findings: [] });
      listAddress.set("/jobs");
    },
    [],
  );
  const read = useFetch(
    async (signal) => {
      if (isApp) return problems.set({ findings: [] });
      if (Date.now() < last.at + FINDINGS_MS) return undefined;
      const { findings, attention = [] } = await engine.explain(
        user?.isOperator ? null : workspace.id,
      );
      if (signal.aborted) return undefined;
      last.at = Date.now();
      const listed = attention.filter(({ workspace_id: id }) => id === workspace.id);
      return problems.set({ findings, attention: listed });
    },
    [isApp],
  );
  const [freshness, setFreshness] = useState("live");
  const [isOpen, setIsOpen] = useState(false);
  const [opened, setOpened] = useState(null); // key of the problem whose advice is shown
  const box = useFocusKeeper();
  useRefresh(read, !isApp);
  useEffect(() => {
    if (isApp) return setFreshness("live");
    const watch = watchWorkspace(supabase(), workspace.id, {
      onRead: notifyPage,
      onChange: (state) => setFreshness(state.freshness),
      pollingInterval: BUSY_MS,
      firstSilence: BUSY_MS,
      silence: Infinity,
      reorder: BUSY_MS,
      isPausable: true,
    });
    const timer = setInterval(notifyPage, QUIET_MS);
    return () => {
      watch.close();
      clearInterval(timer);
    };
  }, [isApp]);
  const [isWithoutRealtime, setIsWithoutRealtime] = useState(false);
  useEffect(() => {
    setIsWithoutRealtime(false);
    const timer = freshness === "polling" && setTimeout(setIsWithoutRealtime, LATE_MS, true);
    return () => clearTimeout(timer);
  }, [freshness]);
  const since = useStore(outage);
  const id = path.replace("/jobs/", "");
  const listed = new URLSearchParams(query);
  const type = listed.get("job_type");
  const isListed = ({ job_type: of }) =>
    path === "/jobs" && listed.get("state") === "attention" && (!type || type === of);
  const here = path === "/overview" ? path : [path, query].filter(String).join("?");
  const all = [...useLines()];
  if (since) all.unshift({ tone: "failed", sentence: outageLine(since) });
  else if (isWithoutRealtime) all.unshift({ sentence: NO_REALTIME });
  if (read.error?.reachable)
    all.unshift({ tone: "failed", sentence: NOT_READ, cause: read.error.message });
  useLayoutEffect(() => setIsOpen(false), [path]);
  useLayoutEffect(() => {
    setTitle({ count: all.length });
    return () => setTitle({ count: 0 });
  }, [all.length]);
  const lines = all
    .map((line) => {
      const own = line.groups?.find((group) => group.job_ids.includes(id));
      return own ? { ...line, own: own.kind } : line;
    })
    // the page of the job explains its problem, and the list of these jobs has the same headings
    .filter(({ own, jobs, groups }) =>
      own ? jobs > 1 : !(groups?.length > 0 && groups.every(isListed)),
    );
  if (lines.length === 0) return null;
  const show = (line) => {
    // a sentence changes with the number of its jobs, which must not close an open problem
    const key = line.key ? `${line.key} ${line.since}` : line.sentence;
    const isAdvised = key === opened;
    return html`<${Problem}
      key=${key}
      line=${line}
      here=${here}
      workspaceId=${workspace.id}
      isOpen=${isAdvised}
      flip=${() => {
        setOpened(isAdvised ? null : key);
        setIsOpen(true); // another problem must not close this one
      }} />`;
  };
  return html`<section
    class="incidents"
    ref=${box}
    data-tone=${toneOfAll(lines)}
    aria-label="Needs attention"
    aria-live="polite">
    ${
      lines.length > 1 &&
      foldButton(
        html`<span class="strong">
          ${pluralize(lines.length, lines.length < all.length ? "other problem" : "problem")}</span
        >${!isOpen && summaryOf(lines)}`,
        isOpen,
        () => setIsOpen(!isOpen),
      )
    }
    ${(isOpen || lines.length === 1) && lines.map(show)}
  </section>`;
}

/**
 * Shows one problem in a line with a link and with buttons that resolve it. Below an open line is
 * what to do. On a phone, the whole line is the button that opens it, and the other buttons are
 * below it. On the page of a job, which explains its problem, the line has no advice.
 */
function Problem({ line, here, workspaceId, isOpen, flip }) {
  const { own, tone, groups = [], next = [] } = line;
  const buttons = groups.map(
    (group) => html`<${Remedy}
        key=${group.kind + group.job_type}
        group=${group}
        workspaceId=${workspaceId} />`,
  );
  // a button that a guess offers is next to its words
  const isBelow = isPhone() || groups[0]?.kind === "no_worker";
  const path = line.path ?? next.find((step) => step.path && step.path !== here)?.path;
  const link = path !== here && path;
  const hasMore = !own && (line.cause || next.length > 0);
  const { subject, count, cause = !isOpen && line.cause, time } = briefOf(line);
  const title = html`<span class="strong"><${Sentence} text=${subject} isShort /></span>${" "}
    <${Sentence} text=${count} isShort />`;
  return html`<div class="problem-line" data-tone=${tone}>
    <${Icon} name=${MARKS[groups[0]?.kind] ?? "warning"} />
    <p class=${isOpen ? "" : "cut"}>
      ${link && groups.length > 0 ? html`<a href=${link}>${title}</a>` : title}
      ${cause && html` · <${Sentence} text=${cause} isShort />`}
    </p>
    <span class="muted since">${time}</span>
    <div class="problem-links">
      ${hasMore && foldButton(html`<span>${next.length > 0 ? "What to do" : "Cause"}</span>`, isOpen, flip)}
      ${link && groups.length === 0 && html`<a href=${link}>${linkTo(link)}</a>`}
      <span class="actions start">${!isBelow && buttons}</span>
    </div>
    ${
      isOpen &&
      html`<div class="advice">
        <${Advice} line=${line} here=${here} shown=${link} buttons=${isBelow ? buttons : []} />
      </div>`
    }
  </div>`;
}
