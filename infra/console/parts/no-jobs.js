// Texts that are shown instead of a list of jobs that has no rows.

import { settings } from "../api.js";
import { html, quietButton } from "../lib/ui.js";
import { Empty, Failed, Loading } from "./states-of-view.js";

function firstJobSql(workspaceId) {
  const name = `${settings().schema ?? "public"}.enqueue_job`;
  return `select ${name}('${workspaceId}', 'jobs.hello', '{"name": "Ada"}');`;
}

/**
 * Shows why the list has no rows. The text is an error, says that older jobs are searched or that
 * no job matches the filters, or explains how to enqueue a first job.
 */
export function EmptyState({ workspaceId, state, filter, none, onFilter, retry }) {
  if (state.error)
    return html`<${Failed} error=${state.error} retry=${retry}
      what="The jobs could not be read" />`;
  if (!state.isAll) return html`<${Loading} what="Searching older jobs" />`;
  return html`<div class="card">
    ${
      Object.values(filter).some(Boolean)
        ? html`<${Empty} title="No job matches">
          ${quietButton("Show all jobs", () => onFilter(none))}
        <//>`
        : html`<${Empty} title="No jobs yet">
          <p>Enqueue a job here or in SQL. It then appears in this list.</p>
          <p><code>${firstJobSql(workspaceId)}</code></p>
        <//>`
    }
  </div>`;
}
