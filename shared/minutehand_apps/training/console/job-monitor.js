// JobMonitor: the jobs of one training or of all, live: percentage, cancel, retry, filter.

import { jobs as api } from "../../api.js";
import { duration } from "../../lib/format.js";
import { useFollowed } from "../../parts/live.js";
import { stateOf } from "../../lib/states.js";
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
import { JOB_TYPES, MAKES, monitored } from "./data.js";

const LIVE = new Set(["pending", "processing", "cancelling"]);
const STATUSES = ["pending", "processing", "completed", "failed", "cancelled"];

const TITLE = heading(
  "Title",
  "wrap",
  (row) => html`<a href=${`/trainings/${row.training_id}`}>${row.title}</a>`,
);
/** Of jobs that went well at once there is nothing to say. */
const RETRIES = column("Retries", "num", (row) =>
  row.retry_count > 0 ? `${row.retry_count} of ${row.max_retries}` : null,
);
const columnsOf = (isRetried) => [
  column("Job", "bare", (row) => html`<a href=${`/jobs/${row.id}`}>${MAKES[row.job_type]}</a>`),
  column("State", "state bare", (row) => {
    const cancelling = row.status === "cancelling";
    const status = cancelling ? "processing" : row.status;
    return html`<${StateBadge} status=${status} cancelling=${cancelling} />`;
  }),
  column("Message", "wrap bare", (row) => [
    row.status === "failed" || (row.status === "pending" && row.error_data)
      ? row.error_data?.message
      : row.progress_message,
    LIVE.has(row.status) &&
      html`<${Bar}
        label=${`${row.title}: ${MAKES[row.job_type]}`}
        done=${row.progress_percentage}
        status=${row.status} />`,
  ]),
  ...(isRetried ? [RETRIES] : []),
  column("Duration", "num", ({ started_at: from, completed_at: to }) =>
    from ? duration((to ? Date.parse(to) : Date.now()) - Date.parse(from)) : "–",
  ),
  column("Created", "bare", (row) => html`<${When} at=${row.created_at} />`),
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
        <span class="hidden"> ${MAKES[row.job_type]} of ${row.title}</span>
      <//>`
    }
    ${
      (row.status === "failed" || row.status === "cancelled") &&
      html`<${ActionButton}
        run=${() => act("Could not retry", () => api.retry(row.id))}>
        Retry<span class="hidden"> ${MAKES[row.job_type]} of ${row.title}</span>
      <//>`
    }
  `;
  const choose = (name, word, values, wordOf) => {
    const set = (value) => onFilter({ [name]: value || undefined });
    const options = [["", "All"], ...values.map((value) => [value, wordOf(value)])];
    return choice(word, filter[name] ?? "", set, options, "field-inline");
  };
  return html`<section class="stack" aria-label="Jobs">
    <div class="bar">
      ${choose("type", "Job", JOB_TYPES, (type) => MAKES[type])}
      ${choose("status", "State", STATUSES, (status) => stateOf(status).word)}
      <span class="spacer"></span>
      <${Freshness} value=${freshness} />
    </div>
    <div class="card list">
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
      [
        ...(trainingId ? [] : [TITLE]),
        ...columnsOf(rows.some((row) => row.retry_count > 0)),
        column("Actions", "bare", actions),
      ],
    )}
    </div>
  </section>`;
}
