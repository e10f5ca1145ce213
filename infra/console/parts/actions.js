// What people did, as sentences: who, what, to what, why, when.

import { counted, shortId } from "../lib/format.js";
import { html } from "../lib/ui.js";
import { Tag } from "./badge.js";
import { When } from "./when.js";

/**
 * @typedef {{id: number, at: string, by: string | null, user_id: string | null, as_operator: boolean,
 *   action: keyof DID, workspace_id: string | null, workspace_name: string | null, job_id: string | null,
 *   jobs: number, detail: Record<string, unknown> | null}} Action As `list_actions` gives it; `by` is a mail address.
 */

const DID = {
  list: "viewed",
  open: "opened",
  close: "closed",
  cancel: "cancelled",
  retry: "retried",
  replay: "ran again, as a new job,",
  edit: "changed the payload of",
  answer: "answered",
  pause: "paused",
  resume: "resumed",
  stop: "stopped",
  enqueue: "enqueued",
  change: "changed the priority or time of",
  emit: "emitted",
  batch: "wrote",
};

/**
 * What an action was about: a job, so many jobs, a filter, a type.
 *
 * @param {Action} action
 */
function about({ action, job_id: jobId, jobs, detail, workspace_name: workspace }) {
  if (action === "list") return `the jobs of all workspaces${filterWords(detail)}`;
  if (action === "pause" || action === "resume" || action === "stop")
    return detail?.kind === "workspace"
      ? "the workspace"
      : `the ${String(detail?.kind ?? "")
          .replace("workspace_type", "job type")
          .replace("_", " ")} ${detail?.name ?? ""}`;
  if (jobId)
    return html`
      ${action === "open" ? "the workspace for job " : "job "}
      <a class="mono" href=${`/jobs/${jobId}`}>${shortId(jobId)}</a>
    `;
  if (action === "emit") return `the event ${detail?.name ?? ""}`;
  if (action === "batch") return `the batch ${shortId(String(detail?.id ?? ""))}`;
  if (action === "open" || action === "close") return workspace ?? "the workspace";
  return `${counted(jobs, "job")}${filterWords(detail)}`;
}

const filterWords = (/** @type {Action["detail"]} */ detail) => {
  const words = Object.entries(detail ?? {})
    .filter(([name]) => name !== "ids" && name !== "reason")
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${[value].flat().join(", ")}`);
  return words.length > 0 ? ` (${words.join("; ")})` : "";
};

/** @param {{actions: Action[], isAll?: boolean}} props As `list_actions` gives them. */
export function Actions({ actions, isAll = false }) {
  return html`<ul class="actions-list">
    ${actions.map(
      (one) => html`<li key=${one.id}>
        <span>
          <span class="strong">
            ${one.by ?? (one.user_id ? shortId(one.user_id) : "A service")}
          </span>
          ${one.as_operator && html` <${Tag} tone="waiting">on call<//>`} ${DID[one.action] ?? one.action} ${about(one)}
          ${isAll && one.workspace_name && html` <span class="muted">in ${one.workspace_name}</span>`}
          ${one.detail?.reason && html`: “${one.detail.reason}”`}
        </span>
        <span class="muted"><${When} at=${one.at} /></span>
      </li>`,
    )}
  </ul>`;
}
