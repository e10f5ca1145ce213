// JobMonitor: the jobs of one training or of all, live: percentage, cancel, retry, filter.

import { jobs as api } from "../../api.js";
import { duration } from "../../lib/format.js";
import { useFollowed } from "../../parts/live.js";
import { useRead } from "../../lib/store.js";
import { html } from "../../lib/ui.js";
import { Freshness, StateBadge } from "../../parts/badge.js";
import { ActionButton } from "../../parts/dialog.js";
import { choice } from "../../parts/field.js";
import { Empty, Stale } from "../../parts/states-of-view.js";
import { column, heading, listed } from "../../parts/table.js";
import { actionsOn } from "../../parts/toasts.js";
import { When } from "../../parts/when.js";
import { Bar } from "./bar.js";
import { JOB_TYPES, monitored } from "./data.js";

const LIVE = new Set(["pending", "processing", "cancelling"]);
const STATUSES = ["pending", "processing", "completed", "failed", "cancelled"];

const TITLE = heading(
  "Title",
  "wrap",
  (row) => html`<a href=${`/trainings/${row.training_id}`}>${row.title}</a>`,
);
const COLUMNS = [
  column("Job", (row) => html`<a href=${`/jobs/${row.id}`}>${row.job_type}</a>`),
  column("State", (row) => {
    const cancelling = row.status === "cancelling";
    const status = cancelling ? "processing" : row.status;
    return html`<${StateBadge} status=${status} cancelling=${cancelling} />`;
  }),
  column(
    "Progress",
    (row) => html`<div style=${{ minWidth: "8rem" }}>
      <${Bar}
        label=${`${row.title}: ${row.job_type}`}
        done=${row.progress_percentage}
        status=${row.status} />
    </div>`,
  ),
  column("Message", "wrap", (row) =>
    row.status === "failed" || (row.status === "pending" && row.error_data)
      ? row.error_data?.message
      : (row.progress_message ?? ""),
  ),
  column("Retries", "num", (row) => `${row.retry_count} of ${row.max_retries}`),
  column("Duration", "num", ({ started_at: from, completed_at: to }) =>
    from ? duration((to ? Date.parse(to) : Date.now()) - Date.parse(from)) : "–",
  ),
  column("Created", (row) => html`<${When} at=${row.created_at} />`),
];

export function JobMonitor({ workspaceId, trainingId, filter, onFilter, onChange = () => {} }) {
  const found = useRead(
    (signal) => monitored({ workspaceId, trainingId, ...filter }, signal),
    [workspaceId, trainingId, filter.status, filter.type],
  );
  const rows = found.value ?? [];
  const live = new Set(rows.filter((row) => LIVE.has(row.status)).map((row) => row.training_id));
  // percentages go to a session alone
  const sessions = [...live].slice(0, 10).map((id) => `session:training:${id}`);
  const topics = trainingId
    ? [`session:training:${trainingId}`]
    : [`workspace:${workspaceId}`, ...sessions];
  const freshness = useFollowed(found, topics, live.size > 0);
  const act = actionsOn(() => {
    found.refresh();
    onChange();
  });
  const actions = (row) => html`
    ${
      LIVE.has(row.status) &&
      html`<${ActionButton}
        className="danger"
        disabled=${row.status === "cancelling"}
        run=${() => act("Could not cancel", () => api.cancel(row.id))}>
        Cancel
        <span class="hidden"> ${row.job_type} of ${row.title}</span>
      <//>`
    }
    ${
      (row.status === "failed" || row.status === "cancelled") &&
      html`<${ActionButton}
        className="primary"
        run=${() => act("Could not retry", () => api.retry(row.id))}>
        Retry<span class="hidden"> ${row.job_type} of ${row.title}</span>
      <//>`
    }
  `;
  const choose = (name, word, values) => {
    const set = (value) => onFilter({ [name]: value || undefined });
    const options = [["", "All"], ...values.map((value) => [value, value])];
    return choice(word, filter[name] ?? "", set, options, "field-inline");
  };
  return html`<section class="card stack" aria-labelledby="h-jobs">
    <div class="bar">
      <h2 id="h-jobs">Jobs</h2>
      <${Freshness} value=${freshness} />
      <span class="spacer"></span>
      ${choose("type", "Type", JOB_TYPES)}
      ${choose("status", "State", STATUSES)}
    </div>
    ${found.isStale && html`<${Stale} error=${found.error} retry=${found.refresh} />`}
    ${listed(
      {
        of: found,
        label: "Jobs",
        rows,
        key: (row) => row.id,
        cards: true,
        attributes: (row) => ({ "data-job": row.job_type, "data-state": row.status }),
        empty: html`<${Empty} title="No jobs">
          ${
            filter.status || filter.type
              ? "No job matches the filter."
              : "Upload a video, and its jobs are listed here."
          }
        <//>`,
      },
      [...(trainingId ? [] : [TITLE]), ...COLUMNS, column("Actions", actions)],
    )}
  </section>`;
}
