// Shows problems of the whole system at the top of every page, a line for each problem.

import { session, outage, supabase, engine, problems } from "../api.js";
import { atLeast, pluralize, timeOfDay } from "../lib/format.js";
import { watchWorkspace } from "../lib/jobs/watch.js";
import { isHidden } from "../lib/jobs/page.js";
import { currentLocation } from "../lib/router.js";
import { changes, useFetch, useStore } from "../lib/store.js";
import { html, isPhone, useEffect, useLayoutEffect, useMemo, useState } from "../lib/ui.js";
import { actOnMany } from "./bulk-actions.js";
import { ActionButton } from "./dialog.js";
import { linkTo, Steps } from "./holders.js";
import { Icon } from "./icons.js";
import { useRefresh } from "./live.js";
import { Sentence } from "./when.js";

const QUIET_MS = 30_000; // milliseconds between two reads of a page if no job changes
const BUSY_MS = 5000; // minimum milliseconds between two reads that changes of jobs cause
const FINDINGS_MS = 20_000; // minimum milliseconds between two reads of problems
const LATE_MS = 15_000; // a slow machine or network may join a topic this late

/** Return the number of problems that are shown without a request. */
const maxShown = () => (isPhone() ? 1 : 3);

const notifyPage = () => isHidden() || changes.set((count) => count + 1);

const outageLine = (since) =>
  `Requests of this page have failed since ${timeOfDay(since)}. ` +
  "`minutehand doctor` shows why.";

const NO_REALTIME =
  "Realtime delivers no changes, so pages read every few seconds. `minutehand doctor` shows why.";

/** Return whether a problem is about a group of `attention`. */
function isAbout(group, { reason, key, sentence }) {
  const { kind, job_type: type, error } = group;
  return kind === "no_worker"
    ? /^no_(worker|processor)$/.test(reason)
    : `${key} `.startsWith(`${kind}_jobs ${type} `) && sentence.includes(error ?? "");
}

/** Return the line about a group of jobs that failed for good. No finding is about them. */
function failureOf({ job_type: type, jobs, more, error, job_ids: [id] }) {
  const isOne = jobs === 1 && !more;
  const words = `${atLeast(jobs, more)} ${isOne ? "job" : "jobs"} of ${type} failed in the last hour`;
  return {
    key: `failed_jobs ${type} ${error}`,
    tone: "failed",
    sentence: `${words}${error ? `: ${error}` : ""}.`,
    jobs,
    next: [
      {
        words: "Fix what the error names, then retry. Finished steps are not run again.",
        path: isOne ? `/jobs/${id}` : `/jobs?state=attention&job_type=${encodeURIComponent(type)}`,
      },
    ],
  };
}

/** Name the job types of problems, if each problem is about a job type. */
function namesOf(lines) {
  const names = lines.flatMap(
    ({ key, unserved }) => unserved ?? key?.match(/^(?:\w+_jobs|no_success) (\S+)/)?.[1] ?? null,
  );
  return names.includes(null) ? "" : `: ${[...new Set(names)].join(", ")}`;
}

const NOT_READ = "Problems could not be read. `minutehand doctor` shows why.";

/**
 * Section that lists the current problems. To users who may see only an app's pages, the section
 * shows only whether there is an outage.
 */
export function Incidents({ workspace, isApp }) {
  const { user } = useStore(session);
  const { path, query } = useStore(currentLocation);
  const last = useMemo(() => ({ at: -Infinity }), [workspace.id]);
  // another workspace or user must not see these findings
  useLayoutEffect(() => () => problems.set({ findings: [] }), [workspace.id]);
  const read = useFetch(
    async (signal) => {
      if (isApp) return problems.set({ findings: [] });
      if (Date.now() < last.at + FINDINGS_MS) return undefined;
      const { findings, attention = [] } = await engine.explain(
        user?.isOperator ? null : workspace.id,
      );
      if (signal.aborted) return undefined;
      last.at = Date.now();
      const isHere = (group) => group.workspace_id === workspace.id;
      return problems.set({ findings, attention: attention.filter(isHere) });
    },
    [workspace.id, isApp],
  );
  const [freshness, setFreshness] = useState("live");
  useRefresh(read, !isApp);
  useEffect(() => {
    if (isApp) return setFreshness("live");
    const onChange = (state) => setFreshness(state.freshness);
    const watch = watchWorkspace(supabase(), workspace.id, {
      onRead: notifyPage,
      onChange,
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
  }, [workspace.id, isApp]);
  const [isWithoutRealtime, setIsWithoutRealtime] = useState(false);
  useEffect(() => {
    setIsWithoutRealtime(false);
    const timer = freshness === "polling" && setTimeout(setIsWithoutRealtime, LATE_MS, true);
    return () => clearTimeout(timer);
  }, [freshness]);
  const since = useStore(outage);
  const { findings, attention } = useStore(problems);
  // the page of a job explains its problem, so the last line only counts the other jobs
  const own = attention?.find((group) => group.job_ids.includes(path.replace("/jobs/", "")));
  const failures = attention?.filter(({ kind }) => kind === "failed").map(failureOf) ?? [];
  const lines = [...findings, ...failures]
    .map((line) => (own && isAbout(own, line) ? { ...line, others: line.jobs - 1 } : line))
    .filter(({ others }) => others !== 0)
    .sort((one, other) => Boolean(one.others) - Boolean(other.others));
  if (since) lines.unshift({ verdict: "fail", sentence: outageLine(since) });
  else if (isWithoutRealtime) lines.unshift({ sentence: NO_REALTIME });
  if (read.error?.reachable)
    lines.unshift({ verdict: "fail", sentence: NOT_READ, cause: read.error.message });
  if (lines.length === 0) return null;
  const here = [path, query].filter(String).join("?");
  const rest = lines.splice(maxShown());
  // a sentence changes with the number of its jobs, which must not close an open problem
  const show = (line) =>
    html`<${Problem}
      key=${line.key ? `${line.key} ${line.since}` : line.sentence}
      line=${line}
      here=${here}
      workspaceId=${workspace.id}
      retrying=${attention?.find((group) => group.kind === "retrying" && isAbout(group, line))} />`;
  return html`<section
    class="incidents"
    data-tone=${[...lines, ...rest].some(({ verdict }) => verdict === "fail") ? "failed" : "waiting"}
    aria-label="Needs attention"
    aria-live="polite">
    ${lines.map(show)}
    ${
      rest.length > 0 &&
      html`<details>
        <summary>${pluralize(rest.length, "more problem")}${namesOf(rest)}</summary>
        ${rest.map(show)}
      </details>`
    }
  </section>`;
}

/** Shows one problem in a line with a link, and on request its cause and what to do. */
function Problem({ line, here, workspaceId, retrying }) {
  const { sentence, others, cause, tone, next = [] } = line;
  const link = next.map((step) => step.path).find((to) => to && to !== here);
  const ids = retrying?.job_ids; // up to 200 jobs of this workspace
  const runAll = () => actOnMany({ workspaceId, action: "run", filter: { ids } });
  return html`<div class="problem-line" data-tone=${tone}>
    <${Icon} name="warning" />
    <div>
      ${
        others
          ? `${pluralize(others, "other job has", "other jobs have")} the same problem as this one.`
          : html`<span class="strong"><${Sentence} text=${sentence} withAges /></span>`
      }
      ${link && html` <a href=${link}>${linkTo(link)}</a>`}
      ${
        !others &&
        (cause || next.length > 0) &&
        html` <details>
          <summary>${next.length > 0 ? "What to do" : "Cause"}</summary>
          ${cause && html`<p>Cause: ${cause.replace(/\.?$/, ".")}</p>`}
          <${Steps} next=${next} here=${here} shown=${link} />
          ${
            retrying &&
            html`<${ActionButton} run=${runAll}>
            Run ${ids.length < line.jobs ? ids.length : "all"} of them now
          <//>`
          }
        </details>`
      }
    </div>
  </div>`;
}
