// Failed jobs by what went wrong: one line per fingerprint, retried together.

import { number } from "../lib/format.js";
import { usePolling, useRead } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { operations } from "../operations.js";
import { ActionButton } from "./dialog.js";
import { operate } from "./operate.js";
import { SinceDeploy } from "./since-deploy.js";
import { Empty } from "./states-of-view.js";
import { When } from "./when.js";
import { column, table } from "./table.js";
import { Unread } from "./unread.js";

/** @import { DeadLetterGroup } from "../lib/jobs/types.js" */

const EVERY_MS = 5000; // a retry of many continues after its button was pressed

/** What went wrong, leading to the latest of its jobs. */
export const errorColumn = column(
  "Error",
  "wrap wide",
  (/** @type {Pick<DeadLetterGroup, "latest_id" | "error_message" | "deploy">} */ group) => html`
    <a class="clamp" href=${`/jobs/${group.latest_id}`} title=${group.error_message}>
      ${group.error_message ?? "no message"}
    </a>
    ${
      group.deploy &&
      html`<p class="muted small">
        <${SinceDeploy} deploy=${group.deploy} />
      </p>`
    }
  `,
);

/** @param {{workspaceId: string}} props */
export function DeadLetters({ workspaceId }) {
  const letters = useRead((signal) => operations.deadLetters(workspaceId, signal), [workspaceId]);
  usePolling(letters, EVERY_MS);
  if (!letters.value) return html`<${Unread} of=${letters} what="the failed jobs" />`;
  /** @type {{groups: DeadLetterGroup[], more: boolean}} */
  const { groups, more: isCut } = letters.value;
  if (groups.length === 0)
    return html`<${Empty} title="No failed jobs">
      Jobs that run out of attempts, or that cannot succeed, are kept here for you to read and retry.
    <//>`;
  const retry = async (/** @type {DeadLetterGroup} */ group) => {
    await operate({
      workspaceId,
      action: "retry",
      filter: {
        job_type: group.job_type,
        ...(group.error_fingerprint && { error_fingerprint: group.error_fingerprint }),
      },
    });
    letters.refresh();
  };
  return html`
    ${isCut && html`<p class="muted small">Of the youngest ${number(10000)}.</p>`}
    ${table(
      {
        label: "Failed jobs",
        rows: groups,
        key: (group) => `${group.job_type} ${group.error_fingerprint}`,
        cards: true,
      },
      [
        column("Jobs", "num strong", (group) => number(group.jobs)),
        column("Type", "wrap", (group) => group.job_type),
        errorColumn,
        column("Latest", (group) => html`<${When} at=${group.last_at} />`),
        column(
          "Actions",
          "num",
          (group) =>
            html`<${ActionButton} run=${() => retry(group)}>Retry ${number(group.jobs)}<//>`,
        ),
      ],
    )}
  `;
}
