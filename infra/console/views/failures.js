// Failed jobs by what went wrong, retried together.

import { number } from "../lib/format.js";
import { usePolling, useRead } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { operations } from "../operations.js";
import { ActionButton } from "../parts/dialog.js";
import { listed } from "../parts/live-list.js";
import { operate } from "../parts/operate.js";
import { pageHead } from "../parts/page-head.js";
import { Empty } from "../parts/states-of-view.js";
import { column } from "../parts/table.js";
import { When } from "../parts/when.js";

/** @import { Workspace } from "../api.js" */
/** @import { DeadLetterGroup } from "../lib/jobs/types.js" */
/** @import { Column } from "../parts/table.js" */

export const title = () => "Failures";

const EVERY_MS = 5000; // a retry of many continues after its button was pressed

/** @param {{workspace: Workspace}} props */
export default function Failures({ workspace }) {
  const read = useRead((signal) => operations.deadLetters(workspace.id, signal), [workspace.id]);
  usePolling(read, EVERY_MS);
  const retry = async (/** @type {DeadLetterGroup} */ group) => {
    await operate({
      workspaceId: workspace.id,
      action: "retry",
      filter: {
        job_type: group.job_type,
        ...(group.error_fingerprint && { error_fingerprint: group.error_fingerprint }),
      },
      known: read.value?.more ? undefined : group.jobs,
    });
    read.refresh();
  };
  /** @type {Column<DeadLetterGroup>[]} */
  const columns = [
    column("Jobs", "num strong", (group) => number(group.jobs)),
    column("Type", "wrap", (group) => group.job_type),
    column(
      "Error",
      "wrap wide",
      (group) => html`
        <a class="clamp" href=${`/jobs/${group.latest_id}`} title=${group.error_message}>
          ${group.error_message ?? "no message"}
        </a>
      `,
    ),
    column("Latest", (group) => html`<${When} at=${group.last_at} />`),
    column(
      "Actions",
      "num",
      (group) => html`<${ActionButton} run=${() => retry(group)}>Retry ${number(group.jobs)}<//>`,
    ),
  ];
  return html`<div class="page">
    ${pageHead("Failures", workspace.name)}
    <section class="card" aria-label="Failures">
      ${read.value?.more && html`<p class="muted small">Of the latest ${number(10_000)}.</p>`}
      ${listed(
        {
          of: read,
          label: "Failed jobs",
          rows: read.value?.groups,
          key: (group) => `${group.job_type} ${group.error_fingerprint}`,
          cards: true,
          empty: html`<${Empty} title="No failed jobs">
            Jobs that run out of attempts, or that cannot succeed, are kept here for you to read and retry.
          <//>`,
        },
        columns,
      )}
    </section>
  </div>`;
}
