// Shows problems of the whole system at the top of every page, a line for each problem.

import { session, outage, supabase, engine, problems } from "../api.js";
import { pluralize, timeOfDay } from "../lib/format.js";
import { watchWorkspace } from "../lib/jobs/watch.js";
import { isHidden } from "../lib/jobs/page.js";
import { currentLocation, listAddress } from "../lib/router.js";
import { changes, useFetch, useStore } from "../lib/store.js";
import { setTitle } from "../lib/title.js";
import {
  foldButton,
  html,
  useEffect,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from "../lib/ui.js";
import { Remedy } from "./bulk-actions.js";
import { useFocusKeeper } from "./dialog.js";
import { useRefresh } from "./live.js";
import { briefOf, lastOf, ProblemLine, sizeOf, useLines } from "./problem-lines.js";
import { Sentence } from "./when.js";

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

/** Name of a problem in the closed bar, with its jobs of each kind. */
function nameOf(line) {
  const { subject } = briefOf(line);
  const { groups = [], tone } = line;
  const kinds = [...Map.groupBy(groups, ({ kind }) => kind)];
  const counts = kinds.map(([kind, some]) =>
    kind === "no_worker"
      ? `no worker, ${sizeOf(some)} waiting`
      : `${sizeOf(some)} ${kind}${lastOf(some[0])}`,
  );
  const name = groups.length > 0 ? subject : subject.replace(/[:,. ]+$/, "");
  return html`<span class="strong" data-tone=${tone}>
      <${Sentence} text=${name} isShort />
    </span>
    ${` ${counts.join(", ")}`}`;
}

/** Closed bar: names of problems, then the cause of the worst, as far as two lines have room. */
function Summary({ title, lines }) {
  const [hidden, setHidden] = useState(0);
  const box = useRef(null);
  useLayoutEffect(() => {
    const count = () => {
      const { children, offsetTop: top, clientHeight: height } = box.current;
      const names = [...children].slice(0, lines.length + 1);
      setHidden(names.filter((name) => name.offsetTop >= top + height).length);
    };
    count();
    const observer = new ResizeObserver(count);
    observer.observe(box.current);
    return () => observer.disconnect();
  }, [lines]);
  const [worst] = lines;
  const { subject, count, cause = worst.cause, time } = briefOf(worst);
  const why = worst.groups?.length > 0 ? cause : count;
  const parts = [title, ...lines.map(nameOf)];
  if (why || time)
    parts.push(html`<span class="muted">
      ${`${subject} `}${why && html`<${Sentence} text=${why} isShort />`}${why && time && ", "}${time}
    </span>`);
  return html`<span class="parts" ref=${box}>
      ${parts.map((part) => html` <span class="part">${part}</span>`)}
    </span>
    ${hidden > 0 && html` <span class="muted">+${hidden} more</span>`}`;
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
  const noun = lines.length < all.length ? "other problem" : "problem";
  const title = html`<span class="strong">${pluralize(lines.length, noun)}</span>`;
  return html`<section
    class="incidents"
    ref=${box}
    data-tone=${toneOfAll(lines)}
    aria-label="Needs attention"
    aria-live="polite">
    ${
      lines.length > 1 &&
      foldButton(
        html`${isOpen ? title : html`<${Summary} title=${title} lines=${lines} />`}
          <span class="flip"> ${isOpen ? "Hide" : "Show"}</span>`,
        isOpen,
        () => setIsOpen(!isOpen),
      )
    }
    ${
      (isOpen || lines.length === 1) &&
      lines.map(
        (line) => html`<${Problem}
          key=${`${line.key ?? line.sentence} ${line.path ? "" : line.since}`}
          line=${line}
          here=${here}
          workspaceId=${workspace.id}
          onOpen=${() => setIsOpen(true)} />`,
      )
    }
  </section>`;
}

/** Shows one problem. The page of a job explains its problem, so there the line has no advice. */
function Problem({ line, here, workspaceId, onOpen }) {
  const { own, tone, path, groups = [] } = line;
  const { subject, count, cause = line.cause, time } = briefOf(line);
  const name =
    groups.length > 0
      ? `${subject} ${count}`
      : html`<${Sentence} text=${subject} isShort /> <span><${Sentence} text=${count} isShort /></span>`;
  return html`<div class="problem-line" data-tone=${tone}>
    <${ProblemLine}
      line=${!own && line}
      name=${path && path !== here ? html`<a class="plain" href=${path}>${name}</a>` : name}
      cause=${cause}
      error=${groups[0]?.error}
      time=${time}
      here=${here}
      onOpen=${onOpen}
      buttons=${groups.map(
        (group) => html`<${Remedy}
          key=${group.kind + group.job_type}
          group=${group}
          workspaceId=${workspaceId} />`,
      )} />
  </div>`;
}
