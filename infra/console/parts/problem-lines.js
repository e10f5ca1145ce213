// Lines about the current problems, each with the groups of jobs that it is about. The status bar
// and the list of the jobs that need attention show the same lines in the same order.

import { problems } from "../api.js";
import { pluralize } from "../lib/format.js";
import { useStore } from "../lib/store.js";
import { html, useMemo } from "../lib/ui.js";
import { Steps } from "./holders.js";

/** Return a sentence about a group of `attention` whose jobs failed. */
export const failureOf = ({ kind, job_type: type, jobs, more, error }) =>
  `${pluralize(jobs, "job", more)} of ${type} ` +
  (kind === "failed" ? "failed in the last hour" : `${jobs === 1 ? "is" : "are"} retrying`) +
  `${error ? `: ${error}` : ""}.`;

/** Return the key of the finding about a group of `attention`, unless its jobs have no worker. */
const keyOf = ({ kind, job_type: type, print }) =>
  [`${kind}_jobs`, type, print].filter(Boolean).join(" ");

/**
 * Return the line about jobs of a type that failed for good with one error, and about jobs that
 * retry after this error, if there is a finding about them. No finding is about the failed jobs.
 */
function failureLine(group, retrying) {
  const { job_type: type, jobs, more, job_ids: ids, next, since } = group;
  const isOne = jobs === 1 && !more && !retrying;
  const start = retrying?.sentence.replace(/(?<= are retrying): .*/s, "");
  const failed = failureOf(group);
  return {
    key: keyOf(group),
    sentence: start ? `${start} and ${failed.replace(/ jobs? of \S+/, "")}` : failed,
    jobs: jobs + (retrying?.jobs ?? 0),
    path: isOne ? `/jobs/${ids[0]}` : `/jobs?state=attention&job_type=${encodeURIComponent(type)}`,
    next,
    since,
  };
}

/**
 * Return the lines of all problems, those with most jobs first. A failed job counts as two. Jobs
 * that retry have the same tone as failed jobs. A type without a worker may have a similar name as
 * another type, whose jobs may fail. The line then says so.
 */
function linesOf(findings, attention = []) {
  const failures = attention
    .filter(({ kind }) => kind === "failed")
    .map((group) => {
      const other = keyOf({ ...group, kind: "retrying" });
      const retrying = findings.find(({ key }) => key === other);
      return { ...failureLine(group, retrying), retrying };
    });
  const merged = failures.map(({ retrying }) => retrying);
  const size = ({ verdict, jobs, tone }) =>
    verdict === "fail" ? Infinity : (jobs ?? -1) * (tone === "failed" ? 2 : 1);
  const groupsOf = (line) =>
    attention.filter((group) =>
      group.kind === "no_worker"
        ? group.reason === line.reason
        : [line.key, line.retrying?.key].includes(keyOf(group)),
    );
  const warn = (groups) => {
    const nearest = new Set(groups.map((group) => group.nearest).filter(Boolean));
    return attention
      .filter(({ job_type: type, error }) => error && nearest.has(type))
      .map((group) => ` But ${failureOf({ ...group, error: null })}`)
      .join("");
  };
  return [...findings.filter((finding) => !merged.includes(finding)), ...failures]
    .map((line) => {
      const groups = groupsOf(line);
      return {
        ...line,
        sentence: line.sentence + warn(groups),
        tone:
          line.verdict === "fail" || /^(retrying|failed)_/.test(line.key) ? "failed" : "waiting",
        groups,
      };
    })
    .sort((one, other) => size(other) - size(one) || 0); // Infinity - Infinity is NaN
}

/** Return the lines of all problems, those with most jobs first. */
export function useLines() {
  const { findings, attention } = useStore(problems);
  return useMemo(() => linesOf(findings, attention), [findings, attention]);
}

/** Return the line or finding with the advice about a group of `attention`. */
export function adviceOf(lines, group) {
  const line = lines.find(({ groups }) => groups.includes(group));
  return (group.kind === "retrying" && line?.retrying) || line;
}

/**
 * Return a map from the ids of the jobs that need attention to their groups, in the order of the
 * lines. A job is in the first of its groups.
 */
export function useGroups() {
  const { attention } = useStore(problems);
  const lines = useLines();
  return useMemo(() => {
    const groups = new Map();
    for (const group of new Set([...lines.flatMap((line) => line.groups), ...(attention ?? [])]))
      for (const id of group.job_ids) if (!groups.has(id)) groups.set(id, group);
    return groups;
  }, [lines]);
}

/**
 * Cause of a problem, what to do, and buttons for it, which a click on the summary shows. No link
 * leads to the current page `here` or to the page `shown`.
 */
export const Advice = ({ line: { cause, next = [] }, summary, here, shown, children }) =>
  (cause || next.length > 0) &&
  html`<details class="advice">
    <summary>${summary ?? (next.length > 0 ? "What to do" : "Cause")}</summary>
    <div>
      ${cause && html`<p>Cause: ${cause.replace(/\.?$/, ".")}</p>`}
      <${Steps} next=${next} here=${here} shown=${shown} />
      ${children}
    </div>
  </details>`;
