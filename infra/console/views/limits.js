// How much a workspace may use, how long its jobs are kept; for people on call the limits of every type.

import { operations, operator } from "../api.js";
import { duration } from "../lib/format.js";
import { isAll } from "../lib/scope.js";
import { usePolling, useRead } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { Tag } from "../parts/badge.js";
import { ActionButton, confirm } from "../parts/dialog.js";
import { Retention } from "../parts/retention.js";
import { Empty, Failed, Loading } from "../parts/states-of-view.js";
import { notify, notifyFailure } from "../parts/toasts.js";
import { WorkspaceLimits } from "../parts/workspace-limits.js";

/** @import { TypeLimits, Workspace } from "../api.js" */

export const title = () => "Limits";

const EVERY_MS = 5000;

/** @param {{workspace: Workspace}} props */
export default function Limits({ workspace }) {
  return html`<div class="page"><header class="page-head"><h1 tabindex="-1">Limits</h1><span class="muted">${workspace.name}</span></header>
    ${isAll(workspace) ? html`<${OfTypes} />` : html`<${WorkspaceLimits} workspace=${workspace} /><${Retention} workspaceId=${workspace.id} />`}
  </div>`;
}

/** Limits by type over all workspaces, each with its pause. */
function OfTypes() {
  const stats = useRead((signal) => operations.stats(null, 15, signal), []);
  usePolling(stats, EVERY_MS);
  if (!stats.value)
    return stats.error
      ? html`<${Failed} error=${stats.error} retry=${stats.refresh} what="The limits could not be read" />`
      : html`<${Loading} what="Reading limits" />`;
  const lines = stats.value.limits ?? [];
  const use = (/** @type {TypeLimits} */ line) =>
    line.max_concurrency ? line.running / line.max_concurrency : 0;
  const change = async (/** @type {TypeLimits} */ line, /** @type {boolean} */ paused) => {
    if (
      paused &&
      !(await confirm({
        title: `Pause ${line.job_type}?`,
        text: "No job of this type starts in any workspace until you resume. Running jobs continue.",
        action: "Pause the type",
        danger: true,
      }))
    )
      return;
    try {
      await operator.pause("job_type", line.job_type, paused);
      notify(`${line.job_type} is ${paused ? "paused" : "resumed"}`);
    } catch (error) {
      notifyFailure(paused ? "Not paused" : "Not resumed", error);
    }
    stats.refresh();
  };
  return html`<section class="card" aria-labelledby="h-limits"><h2 id="h-limits">Limits by type</h2>
    ${
      lines.length === 0
        ? html`<${Empty} title="No job type has been registered" />`
        : html`<div class="scroll-x" tabindex="0" role="group" aria-label="Limits"><table class="table"><thead><tr><th scope="col">Type</th><th scope="col" class="num">Running</th><th scope="col" class="num">At most</th><th scope="col">Use</th><th scope="col" class="num">Per workspace</th><th scope="col" class="num">Per key</th><th scope="col">Rate</th><th scope="col">State</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
    <tbody>${lines.map(
      (
        line,
      ) => html`<tr key=${line.job_type}><th scope="row">${line.job_type}</th><td class="num">${line.running}</td><td class="num">${line.max_concurrency ?? "no limit"}</td>
      <td>${line.max_concurrency ? html`<meter min="0" max="1" high="0.9" value=${use(line)} aria-label=${`${line.running} of ${line.max_concurrency}`}></meter>` : ""}</td>
      <td class="num">${line.workspace_concurrency ?? "–"}</td><td class="num">${line.key_concurrency ?? "–"}</td><td>${line.rate_limit ? `${line.rate_limit} per ${duration(line.rate_per_seconds * 1000)}` : "–"}</td>
      <td>${line.paused_at ? html`<${Tag} tone="waiting">Paused<//>` : html`<${Tag} tone="completed">Running<//>`}</td>
      <td class="num"><${ActionButton} className="quiet" aria-label=${`${line.paused_at ? "Resume" : "Pause"} ${line.job_type}`} run=${() => change(line, !line.paused_at)}>${line.paused_at ? "Resume" : "Pause"}<//></td></tr>`,
    )}</tbody></table></div>`
    }
  </section>`;
}
