// Texts that are shown instead of a list of jobs that has no rows.

import { html, quietButton } from "../lib/ui.js";
import { Empty, Failed, Loading } from "./states-of-view.js";

/**
 * Shows why the list has no rows. The text is an error, says that older jobs are searched or that
 * no job matches the filters, or explains how to enqueue a first job.
 */
export function EmptyState({ state, filter, none, onFilter, retry }) {
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
          <p>Enqueue a job here, or by a command. It then appears in this list.</p>
          <p><code>minutehand enqueue TYPE PAYLOAD</code></p>
        <//>`
    }
  </div>`;
}
