// The page of all jobs; its filters live in the address.

import { setQuery, useQuery } from "../lib/router.js";
import { html, useState } from "../lib/ui.js";
import { JobMonitor } from "../parts/job-monitor.js";
import { EnqueueDialog } from "../parts/lazy.js";

/** @import { Workspace } from "../api.js" */
/** @import { Filter } from "../parts/filters.js" */

export const title = () => "Jobs";

const FILTERS = [
  "state",
  "job_type",
  "queue",
  "parent_id",
  "tag",
  "version",
  "worker_id",
  "error",
  "payload",
  "min_run_ms",
  "since",
  "search",
  "sort",
  "order",
];

/** @param {{workspace: Workspace}} props */
export default function Jobs({ workspace }) {
  const query = useQuery();
  const [enqueuing, setEnqueuing] = useState(false);
  const filter = Object.fromEntries(FILTERS.map((name) => [name, query.get(name) || undefined]));
  return html`<div class="page fill">
    <header class="page-head">
      <h1 tabindex="-1">Jobs</h1>
      <span class="spacer"></span>
      <button type="button" onClick=${() => setEnqueuing(true)}>Enqueue a job</button>
    </header>
    <${JobMonitor}
      workspaceId=${workspace.id}
      filter=${filter}
      onFilter=${(/** @type {Filter} */ changes) => setQuery(changes)} />
    ${
      enqueuing &&
      html`<${EnqueueDialog} workspaceId=${workspace.id} onClose=${() => setEnqueuing(false)} />`
    }
  </div>`;
}
