// What a list of jobs says that has none.

import { settings } from "../api.js";
import { html, quietButton } from "../lib/ui.js";
import { Empty, Failed, Loading } from "./states-of-view.js";

function firstJobSql(workspaceId) {
  const name = `${settings().schema ?? "public"}.enqueue_job`;
  return `select ${name}('${workspaceId}', 'jobs.hello', '{"name": "Ada"}');`;
}

/** An error, older jobs that are looked at, filters that match nothing, or a first job to enqueue. */
export function EmptyState({ workspaceId, state, filter, none, onFilter, retry }) {
  if (state.error)
    return html`<${Failed} error=${state.error} retry=${retry}
      what="The jobs could not be read" />`;
  if (!state.isAll) return html`<${Loading} what="Looking at older jobs" />`;
  if (Object.values(filter).some(Boolean)) {
    return html`<${Empty} title="No job matches">
      ${quietButton("Show all jobs", () => onFilter(none))}
    <//>`;
  }
  return html`<${Empty} title="No jobs yet">
    <p>Enqueue one here, or from SQL, and it appears by itself:</p>
    <p><code>${firstJobSql(workspaceId)}</code></p>
  <//>`;
}
