// JobMonitor: the jobs of one training or of all, live: title, stage, percentage, cancel, retry, filter.

import { jobs as api, supabase } from "../../api.js";
import { duration } from "../../lib/format.js";
import { watchSession, watchWorkspace } from "../../lib/jobs.js";
import { useWatched } from "../../lib/live.js";
import { usePolling, useRead } from "../../lib/store.js";
import { html } from "../../lib/ui.js";
import { Freshness, StateBadge } from "../../parts/badge.js";
import { ActionButton } from "../../parts/dialog.js";
import { Empty, Failed, Loading, Stale } from "../../parts/states-of-view.js";
import { notifyFailure } from "../../parts/toasts.js";
import { When } from "../../parts/when.js";
import { Bar } from "./bar.js";
import { JOB_TYPES, monitor } from "./data.js";

/** @typedef {{status?: string, type?: string}} Filter */

const LIVE = new Set(["pending", "processing"]);
const STATUSES = ["pending", "processing", "completed", "failed", "cancelled"];

/**
 * @param {{workspaceId: string, trainingId?: string, filter: Filter,
 *   onFilter: (changes: Filter) => void}} props
 */
export function JobMonitor({ workspaceId, trainingId, filter, onFilter }) {
  const found = useRead(
    (signal) => monitor.jobs({ workspaceId, trainingId, ...filter }, signal),
    [workspaceId, trainingId, filter.status, filter.type],
  );
  const stuck = useRead((signal) => monitor.stuck(workspaceId, signal), [workspaceId]);
  const freshness = useWatched(
    found,
    (options) =>
      trainingId
        ? watchSession(supabase(), `training:${trainingId}`, options)
        : watchWorkspace(supabase(), workspaceId, options),
    [workspaceId, trainingId],
  );
  const rows = found.value ?? [];
  // progress of jobs that no one watches one by one is not pushed
  usePolling(found, rows.some((row) => LIVE.has(row.status)) ? 2_000 : null);
  usePolling(stuck, 60_000);
  /** @type {(what: () => Promise<unknown>, failure: string) => () => Promise<void>} */
  const act = (what, failure) => async () => {
    try {
      await what();
    } catch (error) {
      notifyFailure(failure, error);
    }
    found.refresh();
  };
  const alerts = (stuck.value?.jobs ?? []).filter(
    (job) => !trainingId || job.training_id === trainingId,
  );
  const choose = (
    /** @type {keyof Filter} */ name,
    /** @type {string} */ word,
    /** @type {string[]} */ values,
  ) =>
    html`<label class="field-inline">${word} <select value=${filter[name] ?? ""} onChange=${(/** @type {{target: HTMLSelectElement}} */ event) => onFilter({ [name]: event.target.value || undefined })}><option value="">All</option>${values.map((value) => html`<option key=${value} value=${value}>${value}</option>`)}</select></label>`;
  return html`<section class="card stack" aria-labelledby="h-jobs">
    <div class="bar"><h2 id="h-jobs">Jobs</h2><${Freshness} value=${freshness} /><span class="spacer"></span>${choose("type", "Type", JOB_TYPES)}${choose("status", "State", STATUSES)}</div>
    ${alerts.map((job) => html`<p key=${job.job_id} class="notice failed wrap" role="alert"><span class="strong">${job.title}: ${job.job_type} has been pending for ${duration(job.pending_seconds * 1000)}</span>${job.sentence}</p>`)}
    ${found.isStale && html`<${Stale} error=${found.error} retry=${found.refresh} />`}
    ${!found.value && found.error && html`<${Failed} error=${found.error} retry=${found.refresh} what="The jobs could not be read" />`}
    ${!found.value && !found.error && html`<${Loading} what="Reading the jobs" />`}
    ${
      found.value &&
      (rows.length === 0
        ? html`<${Empty} title="No jobs">${filter.status || filter.type ? "No job matches the filter." : "Upload a video, and its jobs are listed here."}<//>`
        : html`<div class="scroll-x" tabindex="0" role="group" aria-label="Jobs"><table class="table"><thead><tr>${!trainingId && html`<th scope="col">Title</th>`}<th scope="col">Job</th><th scope="col">State</th><th scope="col">Progress</th><th scope="col">Message</th><th scope="col">Retries</th><th scope="col">Duration</th><th scope="col">Created</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
        <tbody>${rows.map(
          (row) => html`<tr key=${row.id} data-job=${row.job_type} data-state=${row.status}>
          ${!trainingId && html`<th scope="row" class="wrap"><a href=${`/trainings/${row.training_id}`}>${row.title}</a></th>`}
          <td><a href=${`/jobs/${row.id}`}>${row.job_type}</a></td>
          <td><${StateBadge} status=${row.status} /></td>
          <td style=${{ minWidth: "8rem" }}><${Bar} label=${`${row.title}: ${row.job_type}`} done=${row.progress_percentage} tone=${row.status === "processing" ? "processing" : row.status} /></td>
          <td class="wrap">${row.status === "failed" || (row.status === "pending" && row.error_data) ? row.error_data?.message : (row.progress_message ?? "")}</td>
          <td class="num">${row.retry_count} of ${row.max_retries}</td>
          <td class="num">${row.started_at ? duration((row.completed_at ? Date.parse(row.completed_at) : Date.now()) - Date.parse(row.started_at)) : "–"}</td>
          <td><${When} at=${row.created_at} /></td>
          <td>${LIVE.has(row.status) && html`<${ActionButton} className="danger" run=${act(() => api.cancel(row.id), "Not cancelled")}>${row.cancel_requested_at ? "Stopping" : "Cancel"}<span class="hidden"> ${row.job_type} of ${row.title}</span><//>`}
            ${(row.status === "failed" || row.status === "cancelled") && html`<${ActionButton} className="primary" run=${act(() => api.retry(row.id), "Not retried")}>Retry<span class="hidden"> ${row.job_type} of ${row.title}</span><//>`}</td></tr>`,
        )}</tbody></table></div>
        ${rows.length === monitor.MOST && html`<p class="muted small">The latest ${monitor.MOST}; all of them are among the <a href="/jobs">jobs</a>.</p>`}`)
    }
  </section>`;
}
