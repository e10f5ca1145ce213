// Bulk operations of a workspace: what was cancelled, retried or replayed together, and how far that is.

import { bulk, people } from "../api.js";
import { usePolling, useRead } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { ACTIONS } from "../parts/operate.js";
import {
  OperationActions,
  OperationProgress,
  OperationState,
  POLL_MS,
} from "../parts/operation.js";
import { Empty } from "../parts/states-of-view.js";
import { When } from "../parts/when.js";
import { column, heading, table } from "../parts/table.js";
import { Unread } from "../parts/unread.js";
import { pageHead } from "../parts/page-head.js";

/** @import { Workspace } from "../api.js" */

export const title = () => "Bulk operations";

/** @param {{workspace: Workspace}} props */
export default function BulkOperations({ workspace }) {
  const [cursor, setCursor] = useState(/** @type {string | null} */ (null));
  const list = useRead(
    async (signal) => {
      const page = await bulk.list({ query: { workspace_id: workspace.id, cursor }, signal });
      const who = await people(page.operations.map((one) => one.created_by ?? ""));
      return { ...page, who };
    },
    [workspace.id, cursor],
  );
  const page = list.value;
  usePolling(list, page?.operations.some((one) => one.status === "running") ? POLL_MS : null);
  return html`<div class="page">
    ${pageHead("Bulk operations", workspace.name)}
    <section class="card" aria-label="Bulk operations">
      ${
        !page
          ? html`<${Unread} of=${list} what="the operations" />`
          : page.operations.length === 0
            ? html`<${Empty} title="No bulk operations">
              Choose jobs in <a href="/jobs">the list</a>, or narrow it, to cancel, retry or replay them together. It is kept here for 30 days, with what became of each job.
            <//>`
            : table(
                {
                  label: "Bulk operations",
                  rows: page.operations,
                  key: (one) => one.id,
                  cards: true,
                },
                [
                  heading(
                    "Name",
                    "wrap",
                    (one) => html`<a href=${`/bulk-operations/${one.id}`}>${one.name}</a>`,
                  ),
                  column("Action", (one) => ACTIONS[one.action].verb),
                  column("State", (one) => html`<${OperationState} operation=${one} />`),
                  column(
                    "Progress",
                    "wide",
                    (one) => html`<${OperationProgress} operation=${one} />`,
                  ),
                  column("By", "wrap", (one) => page.who[one.created_by ?? ""] ?? "–"),
                  column("Began", (one) => html`<${When} at=${one.created_at} />`),
                  column(
                    "Actions",
                    "num row-actions",
                    (one) => html`<${OperationActions} operation=${one} refresh=${list.refresh} />`,
                  ),
                ],
              )
      }
      <div class="bar">
        ${
          cursor &&
          html`<button type="button" class="quiet" onClick=${() => setCursor(null)}>
            Latest
          </button>`
        }
        ${
          page?.next_cursor &&
          html`<button
            type="button"
            class="quiet"
            onClick=${() => setCursor(page.next_cursor ?? null)}>
            Earlier
          </button>`
        }
      </div>
    </section>
  </div>`;
}
