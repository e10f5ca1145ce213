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
import { listed } from "../parts/live-list.js";
import { Empty } from "../parts/states-of-view.js";
import { When } from "../parts/when.js";
import { column, heading } from "../parts/table.js";
import { pageHead, pager } from "../parts/page-head.js";

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
  const isMore = Boolean(page?.next_cursor);
  usePolling(list, page?.operations.some((one) => one.status === "running") ? POLL_MS : null);
  return html`<div class="page">
    ${pageHead("Bulk operations", workspace.name)}
    <section class="card" aria-label="Bulk operations">
      ${listed(
        {
          of: list,
          label: "Bulk operations",
          rows: page?.operations,
          key: (one) => one.id,
          cards: true,
          empty: html`<${Empty} title="No bulk operations">
            Choose jobs in <a href="/jobs">the list</a>, or narrow it, to cancel, retry or replay them together. It is kept here for 30 days, with what became of each job.
          <//>`,
        },
        [
          heading(
            "Name",
            "wrap",
            (one) => html`<a href=${`/bulk-operations/${one.id}`}>${one.name}</a>`,
          ),
          column("Action", (one) => ACTIONS[one.action].verb),
          column("State", (one) => html`<${OperationState} operation=${one} />`),
          column("Progress", "wide", (one) => html`<${OperationProgress} operation=${one} />`),
          column("By", "wrap", (one) => page?.who[one.created_by ?? ""] ?? "–"),
          column("Began", (one) => html`<${When} at=${one.created_at} />`),
          column(
            "Actions",
            "num row-actions",
            (one) => html`<${OperationActions} operation=${one} refresh=${list.refresh} />`,
          ),
        ],
      )}
      ${pager({
        Latest: cursor !== null && (() => setCursor(null)),
        Earlier: isMore && (() => setCursor(page?.next_cursor ?? null)),
      })}
    </section>
  </div>`;
}
