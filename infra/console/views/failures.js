// Failed jobs by what went wrong: of a workspace, or for people on call of all of them.

import { operator } from "../api.js";
import { counted, number } from "../lib/format.js";
import { isAll } from "../lib/scope.js";
import { useRead } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { DeadLetters } from "../parts/dead-letters.js";
import { Empty, Failed, Loading } from "../parts/states-of-view.js";
import { When } from "../parts/when.js";

/** @import { Workspace } from "../api.js" */

export const title = () => "Failures";

/** @param {{workspace: Workspace}} props */
export default function Failures({ workspace }) {
  return html`<div class="page"><header class="page-head"><h1 tabindex="-1">Failures</h1><span class="muted">${workspace.name}</span></header>
    <section class="card" aria-labelledby="h-dead"><h2 id="h-dead">Dead letters</h2>${isAll(workspace) ? html`<${OfAll} />` : html`<${DeadLetters} workspaceId=${workspace.id} />`}</section>
  </div>`;
}

/** One line a fault, with how many workspaces it hit; a line's latest job leads inside. */
function OfAll() {
  const read = useRead((signal) => operator.failures(signal), []);
  if (!read.value)
    return read.error
      ? html`<${Failed} error=${read.error} retry=${read.refresh} what="The failures could not be read" />`
      : html`<${Loading} what="Reading failures" />`;
  const { groups, more } = read.value;
  if (groups.length === 0)
    return html`<${Empty} title="No failed jobs">Jobs that run out of attempts, or that cannot succeed, are kept here.<//>`;
  return html`${more && html`<p class="muted small">Of the latest ${number(10_000)}.</p>`}
    <div class="scroll-x" tabindex="0" role="group" aria-label="Dead letters"><table class="table"><thead><tr><th scope="col" class="num">Jobs</th><th scope="col" class="num">Workspaces</th><th scope="col">Type</th><th scope="col">Error</th><th scope="col">First</th><th scope="col">Latest</th></tr></thead>
    <tbody>${groups.map(
      (
        group,
      ) => html`<tr key=${`${group.job_type} ${group.error_fingerprint}`}><td class="num strong">${number(group.jobs)}</td><td class="num" title=${counted(group.workspaces, "workspace")}>${number(group.workspaces)}</td>
      <td class="wrap"><a href=${`/jobs?state=failed&job_type=${encodeURIComponent(group.job_type)}`}>${group.job_type}</a></td>
      <td class="wrap wide"><a class="clamp" href=${`/jobs/${group.latest_id}`} title=${group.error_message}>${group.error_message ?? "no message"}</a></td><td><${When} at=${group.first_at} /></td><td><${When} at=${group.last_at} /></td></tr>`,
    )}</tbody></table></div>`;
}
