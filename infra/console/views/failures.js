// Failed jobs by what went wrong: of a workspace, or for people on call of all of them.

import { operator } from "../api.js";
import { number } from "../lib/format.js";
import { isAll } from "../lib/scope.js";
import { useRead } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { DeadLetters, errorColumn } from "../parts/dead-letters.js";
import { Empty } from "../parts/states-of-view.js";
import { When } from "../parts/when.js";
import { column, table } from "../parts/table.js";
import { Unread } from "../parts/unread.js";
import { pageHead } from "../parts/page-head.js";

/** @import { Workspace } from "../api.js" */

export const title = () => "Failures";

/** @param {{workspace: Workspace}} props */
export default function Failures({ workspace }) {
  return html`<div class="page">
    ${pageHead("Failures", workspace.name)}
    <section class="card" aria-label="Failures">
      ${isAll(workspace) ? html`<${OfAll} />` : html`<${DeadLetters} workspaceId=${workspace.id} />`}
    </section>
  </div>`;
}

/** One line a fault, with how many workspaces it hit; a line's latest job leads inside. */
function OfAll() {
  const read = useRead((signal) => operator.failures(signal), []);
  if (!read.value) return html`<${Unread} of=${read} what="the failures" />`;
  const { groups, more } = read.value;
  if (groups.length === 0)
    return html`<${Empty} title="No failed jobs">
      Jobs that run out of attempts, or that cannot succeed, are kept here.
    <//>`;
  return html`
    ${more && html`<p class="muted small">Of the latest ${number(10_000)}.</p>`}
    ${table(
      {
        label: "Failed jobs",
        rows: groups,
        key: (group) => `${group.job_type} ${group.error_fingerprint}`,
        cards: true,
      },
      [
        column("Jobs", "num strong", (group) => number(group.jobs)),
        column("Workspaces", "num", (group) => number(group.workspaces)),
        column(
          "Type",
          "wrap",
          (
            group,
          ) => html`<a href=${`/jobs?state=failed&job_type=${encodeURIComponent(group.job_type)}`}>
            ${group.job_type}
          </a>`,
        ),
        errorColumn,
        column("First", (group) => html`<${When} at=${group.first_at} />`),
        column("Latest", (group) => html`<${When} at=${group.last_at} />`),
      ],
    )}
  `;
}
