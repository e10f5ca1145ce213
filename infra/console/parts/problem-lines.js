// Lines about the current problems, each with the groups of jobs that it is about. The status bar
// and the list of the jobs that need attention show the same lines in the same order.

import { problems } from "../api.js";
import { atLeast, INSTANT, number, pluralize, relative, roughly } from "../lib/format.js";
import { toneOf } from "../lib/states.js";
import { useStore } from "../lib/store.js";
import { classes, foldButton, html, useMemo, useState } from "../lib/ui.js";
import { Steps, warned } from "./holders.js";
import { Age, Sentence } from "./when.js";

/**
 * Return the key of the line about a group of `attention`, unless its jobs have no worker. It is the
 * key of a finding, and the same for jobs that failed and jobs that retry after the same error.
 */
export const keyOf = ({ kind, job_type: type, print }) =>
  [`${kind === "failed" ? "retrying" : kind}_jobs`, type, print].filter(Boolean).join(" ");

/** Return the number of jobs in groups of `attention`. A silent retry is in two groups. */
export const countJobs = (groups) =>
  groups.reduce(
    (sum, { jobs, job_ids: ids }) => sum + jobs - ids.length,
    new Set(groups.flatMap(({ job_ids: ids }) => ids)).size,
  );

/** Return the number of jobs in groups of `attention` as words, with this noun or without one. */
export function sizeOf(groups, noun) {
  const isMore = groups.some(({ more }) => more);
  const jobs = countJobs(groups);
  return noun ? pluralize(jobs, noun, isMore) : atLeast(jobs, isMore);
}

/** Return whether jobs of a group fail for good if their next attempt fails. */
const isLast = ({ last_jobs: last }) => last > 0;

/** Return the tone of a group of `attention`. */
const toneOfGroup = (group) => (isLast(group) ? "failed" : toneOf(group.kind));

/** Return the tone of the worst group, if any. */
export const worstTone = (groups) => groups.map(toneOfGroup).sort()[0];

/** Return a number that is higher for problems that a person must resolve sooner. */
const rankOf = ({ verdict, tone, reason, groups }) =>
  verdict === "fail"
    ? 4
    : groups.some(isLast)
      ? 3
      : tone === "failed"
        ? 2
        : Number(reason === "silent_jobs");

/**
 * Return the lines of all problems. Failures of the system are first, then jobs before their last
 * attempt, red lines, silent jobs, which may never end, and then jobs that retry and other
 * problems. Of the same rank, most jobs are first. Failed jobs, which no finding is about, and jobs
 * that retry after the same error have one line. The address of the list of the jobs of a line is
 * its `path`, and so no step has an address of a list.
 */
function linesOf(findings, attention = []) {
  const failures = attention
    .filter(({ kind }) => kind === "failed")
    .map((group) => {
      const key = keyOf(group);
      const retrying = findings.find((finding) => finding.key === key);
      return { key, retrying, next: group.next, since: group.since };
    });
  const merged = failures.map(({ retrying }) => retrying);
  return [...findings.filter((finding) => !merged.includes(finding)), ...failures]
    .map((line) => {
      const groups = attention.filter((group) =>
        group.kind === "no_worker" ? group.reason === line.reason : keyOf(group) === line.key,
      );
      // of failed jobs and those that retry after the same error, the failed jobs are first
      groups.sort((one, other) => toneOf(one.kind).localeCompare(toneOf(other.kind)));
      const types = new Set(groups.map((group) => group.job_type));
      const jobs = countJobs(groups); // an operator's finding counts jobs of all workspaces
      const list = { state: "attention", ...(types.size === 1 && { job_type: [...types][0] }) };
      return {
        ...line,
        ...(types.size > 0 && {
          jobs,
          path: jobs === 1 ? `/jobs/${groups[0].job_ids[0]}` : `/jobs?${new URLSearchParams(list)}`,
          next: warned(line.next, attention)?.map((step) => ({
            ...step,
            path: step.path?.startsWith("/jobs?") ? null : step.path,
          })),
        }),
        tone: line.verdict === "fail" ? "failed" : (worstTone(groups) ?? toneOf(line.reason)),
        groups,
      };
    })
    .sort((one, other) => rankOf(other) - rankOf(one) || (other.jobs ?? -1) - (one.jobs ?? -1));
}

/** Return the lines of all problems, in the order of `linesOf`. */
export function useLines() {
  const { findings, attention } = useStore(problems);
  return useMemo(() => linesOf(findings, attention), [findings, attention]);
}

/** Return groups of one cause as one group, with these groups as its `parts`. */
const joined = (parts) => ({
  ...parts[0],
  parts,
  jobs: countJobs(parts),
  more: parts.some(({ more }) => more),
  job_ids: [...new Set(parts.flatMap(({ job_ids: ids }) => ids))],
});

/** Return a group with only the jobs of a list, if it has any. */
export function limited({ parts, line }, rows) {
  const kept = parts.flatMap((part) => {
    const ids = part.job_ids.filter((id) => rows.some((row) => row.id === id));
    const group = { ...part, jobs: ids.length, more: false, job_ids: ids, last_jobs: null };
    return ids.length > 0 ? group : [];
  });
  return kept.length > 0 ? { ...joined(kept), line } : [];
}

/** Return the groups of `attention` by cause, in the order of the lines, each with its line. */
export function useCauses() {
  const { attention = [] } = useStore(problems);
  const lines = useLines();
  return useMemo(() => {
    const causes = lines
      .filter(({ groups }) => groups.length > 0)
      .flatMap((line) =>
        // one finding is about all types without a worker
        (line.groups[0].kind === "no_worker"
          ? line.groups.map((group) => [group])
          : [line.groups]
        ).map((parts) => ({ ...joined(parts), line })),
      );
    const known = causes.flatMap(({ parts }) => parts);
    const others = attention.filter((group) => !known.includes(group));
    return [...causes, ...others.map((group) => joined([group]))];
  }, [lines]);
}

/** Return a map from the ids of the jobs that need attention to the first of their groups. */
export function useGroups() {
  const causes = useCauses();
  return useMemo(() => {
    const groups = new Map();
    for (const group of causes.flatMap(({ parts }) => parts))
      for (const id of group.job_ids) if (!groups.has(id)) groups.set(id, group);
    return groups;
  }, [causes]);
}

/**
 * Return the first words of an error, without its class if the message explains the error. Of an
 * error of httpx, return the status and the host.
 */
export const causeOf = (error) =>
  error
    ?.replace(/^\w+: (?=\S+ \S+ \S)/, "")
    .replace(/^(?:Client|Server) error '(.+?)' for url '\w+:..([^/?']+).*/s, "$1 from $2");

const roughAge = (at, now) => roughly(now - Date.parse(at));

/** Return the parts of a line: the subject, the number of jobs, their cause and a time. */
export function briefOf({ groups = [], reason, sentence, jobs, since, own }) {
  const [group] = groups;
  const length = (words) => since && html`${words} <${Age} at=${since} format=${roughAge} />`;
  if (!group || reason === "no_worker") {
    const [, subject, count] = (sentence ?? "").match(/^(.*?(?:[:,] |$))(.*)$/s);
    const time = !INSTANT.test(sentence) && length("for");
    return { subject, count, time };
  }
  const { kind, more, error, seen } = group;
  const subject = `${[...new Set(groups.map((one) => one.job_type))].join(", ")}:`;
  const named = own
    ? `this job and ${pluralize(jobs - 1, "other", more)}`
    : pluralize(jobs, "job", more);
  if (kind === "no_worker")
    return { subject, count: `no worker, ${named} waiting`, time: length("for") };
  if (kind === "silent")
    return {
      subject,
      count: `${named} silent`,
      time: length(jobs > 1 ? "for up to" : "for"),
      cause: !own && seen?.replace("its ", ""),
    };
  const [failed, retry] = ["failed", "retrying"].map((name) =>
    groups.find((one) => one.kind === name),
  );
  return {
    subject,
    count:
      failed && retry
        ? `${pluralize(jobs - failed.jobs, "job", retry.more)} retrying${lastOf(retry)}, ` +
          `${pluralize(failed.jobs, "job", failed.more)} failed`
        : `${named} ${kind}${lastOf(group)}`,
    cause: !own && causeOf(error),
    time: failed
      ? since &&
        html`first error <${Age} at=${since} format=${relative} />${
          Date.parse(failed.last_at) > Date.parse(since) + 60_000 &&
          html`, last <${Age} at=${failed.last_at} format=${relative} />`
        }`
      : length("for"),
  };
}

/** Say how many of the retrying jobs of a group fail for good if their next attempt fails. */
export const lastOf = ({ last_jobs: last, jobs, more }) =>
  last > 0
    ? `, ${last < jobs || more ? `${number(last)} with one attempt left` : "one attempt left each"}`
    : "";

/**
 * Line of a problem with its name, cause, age and buttons, which opens to show what to do. A button
 * that a guess offers is next to its words. `onOpen` is called when the line opens or closes.
 */
export function ProblemLine({ line, name, cause, error, time, here, buttons, onOpen }) {
  const [isOpen, setIsOpen] = useState(false);
  const isBelow = line?.next?.some(({ guess }) => guess);
  const flip = () => {
    setIsOpen(!isOpen);
    onOpen?.();
  };
  return html`
    <div class="group-head" title=${error ?? cause}>
      <span class="strong">${name}</span>
      <span class=${classes("job-note", error && "bad")}>
        ${!(isOpen && cause === line.cause) && cause && html`<${Sentence} text=${cause} isShort />`}
      </span>
      ${time && html`<span class="small muted since">${time}</span>`}
      ${line?.next?.length > 0 && foldButton("What to do", isOpen, flip)}
      ${!isBelow && buttons}
    </div>
    ${
      isOpen &&
      html`<div class="advice">
        ${error?.length > 80 && html`<p class="error-text">${error}</p>`}
        <${Advice} line=${line} here=${here} buttons=${isBelow && buttons} />
      </div>`
    }
  `;
}

/** Cause of a problem and what to do, with `buttons` at the step that they do. */
function Advice({ line, here, buttons }) {
  const { cause, next } = line;
  const { completed } = line.retrying ?? line;
  return html`
    ${cause && html`<p>Cause: ${cause.replace(/\.?$/, ".")}</p>`}
    ${completed && html`<p>${pluralize(completed, "job")} of this type completed in the last hour.</p>`}
    <${Steps}
      next=${next}
      here=${here}
      buttonOf=${(words, index, steps) => steps[index].guess && buttons} />
  `;
}
