// Badges that show the state of a job, the progress of a job, and how fresh the data of a page is.

import { problems } from "../api.js";
import { capitalize, percentage, roughly } from "../lib/format.js";
import { FRESHNESS, isDelayed, stateAt, stateOf, toneOf } from "../lib/states.js";
import { useStore } from "../lib/store.js";
import { html, useEffect, useState } from "../lib/ui.js";
import { Icon } from "./icons.js";
import { Sentence, useNow } from "./when.js";

/**
 * Return the trouble of a running or queued job, as `silent 4 min` or `no worker`. Return null if no
 * finding is about the job.
 */
function useTrouble(job, status, state, silentSince) {
  const { findings, attention } = useStore(problems);
  const finding = findings.find(({ silent }) => silent?.[job?.id]);
  const since = silentSince === undefined ? finding?.silent[job.id] : silentSince;
  const now = useNow(Boolean(since));
  if (since && status === "processing") return `silent ${roughly(now - Date.parse(since))}`;
  // the ids of a group may be incomplete
  const isUnserved = ({ kind, jobs, job_ids: ids, job_type: type }) =>
    kind === "no_worker" && (ids.includes(job.id) || (jobs > ids.length && type === job.job_type));
  return state === "queued" && attention?.some(isUnserved) ? "no worker" : null;
}

/** Return the state of a job, which changes when the time of its next run comes. */
export const useJobState = (job) => stateAt(job, useNow(isDelayed(job.state)));

/**
 * Shows a badge with the state of a job, or with the job's status if only the status is known. If a
 * finding is about the job, the badge shows it too, and a `compact` badge shows only the finding.
 * The page of a job knows the time `silentSince`, or null, before the findings do.
 */
export function StateBadge({ job, silentSince, cancelling, compact, ...only }) {
  const state = useJobState(job ?? only);
  const { status } = job ?? only;
  const trouble = useTrouble(job, status, state, silentSince);
  const { word, tone, mark } = stateOf(state);
  const shown = cancelling && status === "processing" ? "Cancelling" : word;
  return html`<span class="badge" data-tone=${trouble ? toneOf(trouble) : tone} data-status=${status}>
    <${Icon} name=${mark} />
    ${!trouble || (compact && cancelling) ? shown : compact ? capitalize(trouble) : `${shown}, ${trouble}`}
  </span>`;
}

const STEADY_MS = 400;

/**
 * Shows how fresh the data of the page is. The value `live` appears immediately, but other values
 * only after a short time, so that the badge does not flicker.
 */
export function Freshness({ value }) {
  const [shown, setShown] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setShown(value), value === "live" ? 0 : STEADY_MS);
    return () => clearTimeout(timer);
  }, [value]);
  const { word, tone, hint } = FRESHNESS[shown];
  return html`<span
    class="freshness"
    data-tone=${tone}
    data-freshness=${shown}
    title=${hint}
    role="status">
    <span class="pulse" aria-hidden="true"></span>
    ${word}
  </span>`;
}

const MARKS = { completed: "check", failed: "cross" };

/** Shows a badge with a word, in the colour of the tone. */
export const Tag = ({ tone = "pending", children }) =>
  html`<span class="badge" data-tone=${tone}>
    ${MARKS[tone] && html`<${Icon} name=${MARKS[tone]} />`}${children}
  </span>`;

export function JobProgress({ job, label = "Progress", compact = false, children }) {
  const { status, progress } = job;
  const done = status === "completed" ? 100 : percentage(progress);
  const { tone, word } = stateOf(status);
  const words = progress?.message || progress?.stage || "";
  if (done === 0 && (compact || !words)) return null; // the job has reported no progress
  return html`<div
    class="progress"
    data-tone=${tone}
    data-status=${status}>
    <div
      class="progress-track"
      role="progressbar"
      aria-label=${label}
      aria-valuemin="0"
      aria-valuemax="100"
      aria-valuenow=${done}
      aria-valuetext=${`${done}%, ${words || word}`}>
      <div class="progress-bar" style=${{ transform: `scaleX(${done / 100})` }}></div>
    </div>
    <span class="num">${done}%</span>
    ${!compact && html`<span class="progress-words"><span><${Sentence} text=${words} /></span> <span>${children}</span></span>`}
  </div>`;
}
