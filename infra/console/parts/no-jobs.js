// Texts that are shown instead of a list of jobs that has no rows.

import { STATES } from "../lib/states.js";
import { html, quietButton } from "../lib/ui.js";
import { describe } from "./job-filters.js";
import { Empty, Failed, Loading } from "./states-of-view.js";

/** Name the state of which there is no job, or of which no job matches. */
function titleOf(state, hasOthers) {
  const name = STATES[state] ? `${STATES[state].word.toLowerCase()} job` : "job";
  if (hasOthers) return `No ${name} ${state === "attention" ? "that needs attention " : ""}matches`;
  return state === "attention" ? "No job needs attention" : `No ${name}s`;
}

/**
 * Shows why the list has no rows. The text is an error, says that older jobs are searched or that
 * no job matches the filters, or explains how to enqueue a first job.
 */
export function EmptyState({ state, filter, none, onFilter, retry }) {
  if (state.error)
    return html`<${Failed} error=${state.error} retry=${retry}
      what="The jobs could not be read" />`;
  if (!state.isAll) return html`<${Loading} what="Searching older jobs" />`;
  const others = describe(filter);
  const words = others.map(([, name, value]) => `${name} “${value}”`).join(", ");
  return html`<div class="card">
    ${
      Object.values(filter).some(Boolean)
        ? html`<${Empty} title=${titleOf(filter.state, others.length > 0)}>
          ${words && html`<p class="wrap">${words}</p>`}
          <div class="actions">
            ${
              words &&
              quietButton("Clear the search and filters", () =>
                onFilter({ ...none, state: filter.state }),
              )
            }
            ${(filter.state || !words) && quietButton("Show all jobs", () => onFilter(none))}
          </div>
        <//>`
        : html`<${Empty} title="No jobs yet">
          <p>Enqueue a job here, or by a command.</p>
          <p><code>minutehand enqueue TYPE PAYLOAD</code></p>
        <//>`
    }
  </div>`;
}
