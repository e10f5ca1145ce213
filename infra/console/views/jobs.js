// Page with the jobs of a workspace, or with the failed jobs grouped by error. The address of the
// page contains the filters of the list.

import { setQuery, useQuery } from "../lib/router.js";
import { html, useState } from "../lib/ui.js";
import { EnqueueDialog } from "../parts/enqueue.js";
import { FIELDS } from "../parts/job-filters.js";
import { JobMonitor } from "../parts/job-monitor.js";
import { pageHead } from "../parts/states-of-view.js";

export const title = () => "Jobs";

export default function Jobs({ workspace }) {
  const query = useQuery();
  const [enqueuing, setEnqueuing] = useState(false);
  const filter = Object.fromEntries(FIELDS.map((name) => [name, query.get(name) || undefined]));
  const isByError = Boolean(query.get("grouped")) && (filter.state ?? "failed") === "failed";
  if (isByError) filter.state = "failed";
  return html`<div class="page fill">
    ${pageHead(
      "Jobs",
      null,
      html`<button type="button" class="primary" onClick=${() => setEnqueuing(true)}>
        Enqueue a job
      </button>`,
    )}
    <${JobMonitor}
      workspaceId=${workspace.id}
      filter=${filter}
      isByError=${isByError}
      sort=${query.get("sort") ?? ""}
      onFilter=${setQuery} />
    ${
      enqueuing &&
      html`<${EnqueueDialog} workspaceId=${workspace.id} onClose=${() => setEnqueuing(false)} />`
    }
  </div>`;
}
