// Workers: who runs jobs of this workspace's types, since when, and when each was last seen.

import { types } from "../api.js";
import { html } from "../lib/ui.js";
import { WorkerState } from "../parts/badge.js";
import { ResourceView } from "../parts/resource.js";
import { Empty } from "../parts/states-of-view.js";
import { column, heading } from "../parts/table.js";
import { When } from "../parts/when.js";

export const title = () => "Workers";

/** The workers of all types; each once, with the types it serves. */
async function read(workspaceId, signal) {
  const workers = new Map();
  for (const { job_type: type, serving } of await types.list(workspaceId, signal))
    for (const one of serving) {
      const found = workers.get(one.worker_id) ?? { ...one, types: [] };
      found.types.push(type);
      workers.set(one.worker_id, found);
    }
  return [...workers.values()].sort((a, b) => (a.seen_at < b.seen_at ? 1 : -1));
}

export default function Workers({ workspace }) {
  return html`<${ResourceView}
    name="Workers"
    of=${workspace.name}
    read=${(signal) => read(workspace.id, signal)}
    inputs=${[workspace.id]}
    rowKey=${(one) => one.worker_id}
    columns=${[
      heading("Worker", "mono small wrap", (one) => one.worker_id),
      column("State", (one) => html`<${WorkerState} state=${one.state} />`),
      column("Version", "small", (one) => one.version ?? "–"),
      column("Since", (one) => html`<${When} at=${one.started_at} />`),
      column("Last seen", (one) => html`<${When} at=${one.seen_at} />`),
      column("Queues", "phone-less", (one) => one.queues?.join(", ") ?? "all"),
      column("Types", "small wrap", (one) => one.types.join(", ")),
    ]}
    empty=${html`<${Empty} title="No worker has been seen">
      <p>Locally <code>make run</code> starts one; elsewhere the schedule invokes it each minute:</p>
      <p><code>minutehand serve</code></p>
    <//>`} />`;
}
