// Page with the jobs of a workspace, or with the failed jobs grouped by error. The address of the
// page contains the filters of the list.

import { problems } from "../api.js";
import { setQuery, useQuery } from "../lib/router.js";
import { useStore } from "../lib/store.js";
import { html, useEffect, useLayoutEffect, useState } from "../lib/ui.js";
import { EnqueueDialog } from "../parts/enqueue.js";
import { Failures } from "../parts/failures.js";
import { FIELDS } from "../parts/job-filters.js";
import { JobMonitor } from "../parts/job-monitor.js";
import { Loading, objectHead, pageHead } from "../parts/states-of-view.js";

export const title = () => "Jobs";

const LATE_MS = 3000; // longer than most reads of problems

/**
 * An address without a query becomes that of the jobs that need attention, or of all jobs if none
 * does. The page decides once, so that an open list stays whatever happens to the jobs.
 */
export default function Jobs({ workspace }) {
  const query = useQuery();
  const isPlain = query.size === 0;
  const [isLate, setIsLate] = useState(false);
  useStore(problems);
  useLayoutEffect(() => {
    // this render may have read the problems of the workspace that was open before
    const { attention = isLate && [] } = problems.get();
    if (isPlain && attention) setQuery({ state: attention.length > 0 ? "attention" : "all" });
  });
  useEffect(() => {
    const timer = setTimeout(setIsLate, LATE_MS, true);
    return () => clearTimeout(timer);
  }, []);
  const [enqueuing, setEnqueuing] = useState(false);
  const filter = Object.fromEntries(FIELDS.map((name) => [name, query.get(name) || undefined]));
  if (filter.state === "all") filter.state = undefined;
  const onFilter = ({ state = filter.state, ...others }) =>
    setQuery({ ...others, state: state || "all" });
  if (query.get("grouped"))
    return html`<div class="page">
      ${objectHead(html`<a href="/jobs?state=failed">Failed jobs</a>`, "Failures by error")}
      <${Failures} workspaceId=${workspace.id} />
    </div>`;
  return html`<div class="page fill">
    ${pageHead(
      "Jobs",
      null,
      html`<button type="button" class="primary" onClick=${() => setEnqueuing(true)}>
        Enqueue a job
      </button>`,
    )}
    ${
      isPlain
        ? html`<${Loading} what="Reading jobs" />`
        : html`<${JobMonitor}
          workspaceId=${workspace.id}
          filter=${filter}
          onFilter=${onFilter} />`
    }
    ${
      enqueuing &&
      html`<${EnqueueDialog} workspaceId=${workspace.id} onClose=${() => setEnqueuing(false)} />`
    }
  </div>`;
}
