// Shows failed jobs, grouped by error.

import { jobs as api } from "../api.js";
import { atLeast, number } from "../lib/format.js";
import { useFetch } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { Tag } from "./badge.js";
import { ActionButton } from "./dialog.js";
import { actOnMany } from "./bulk-actions.js";
import { useRefresh } from "./live.js";
import { Empty } from "./states-of-view.js";
import { column, dataTable, heading, typeLink } from "./table.js";
import { When } from "./when.js";

/** Columns of a table of failure groups. The Overview page also shows these columns. */
export const FAILURE_COLUMNS = [
  heading("Type", "wrap", (group) => typeLink(group.job_type)),
  column("Jobs", "num strong", (group) => atLeast(group.jobs)),
  column(
    "Error",
    "wrap wide",
    (group) => html`<a class="clamp" href=${`/jobs/${group.latest_id}`}>
        ${group.error_message ?? "no message"}
      </a>
      ${group.is_new && html` <${Tag} tone="failed">New since the deploy<//>`}
      ${group.consequences?.map(
        (one) => html`<p class="muted small" key=${one.job_type}>
          causes <a href=${`/jobs/${one.latest_id}`}>${atLeast(one.jobs)} ${one.job_type}</a>
        </p>`,
      )}`,
  ),
  column("Latest", (group) => html`<${When} at=${group.last_at} />`),
];
export const failureKey = (group) => `${group.job_type} ${group.error_fingerprint}`;

/** Lists the groups of failed jobs, each with a button that retries all of its jobs. */
export function Failures({ workspaceId }) {
  const read = useFetch((signal) => api.failures(workspaceId, signal), [workspaceId]);
  useRefresh(read);
  const retry = async (group) => {
    const { job_type, error_fingerprint: print } = group;
    await actOnMany({
      workspaceId,
      action: "retry",
      filter: { job_type, state: ["failed"], ...(print && { error_fingerprint: print }) },
    });
    read.refresh();
  };
  return html`<section class="card" aria-label="Failures">
    ${dataTable(
      {
        of: read,
        label: "Failed jobs",
        rows: read.value?.groups,
        key: failureKey,
        cards: true,
        empty: html`<${Empty} title="No failed jobs" />`,
      },
      [
        ...FAILURE_COLUMNS,
        column("First", "phone-less", (group) => html`<${When} at=${group.first_at} />`),
        column(
          "Actions",
          "num",
          (group) => html`<${ActionButton} run=${() => retry(group)}>
            Retry ${number(group.jobs)}
          <//>`,
        ),
      ],
    )}
  </section>`;
}
