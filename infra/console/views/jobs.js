// All jobs of a workspace, or the failed ones by what went wrong; the filters live in the address.

import { jobs as api } from "../api.js";
import { atLeast, number } from "../lib/format.js";
import { setQuery, useQuery } from "../lib/router.js";
import { usePolling, useRead } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { ActionButton } from "../parts/dialog.js";
import { actOnMany, FIELDS, JobMonitor, Tabs } from "../parts/job-monitor.js";
import { EnqueueDialog } from "../lib/lazy.js";
import { column, listed } from "../parts/table.js";
import { Empty } from "../parts/states-of-view.js";
import { When } from "../parts/when.js";

export const title = () => "Jobs";

const EVERY_MS = 5000; // a retry of many continues after its button was pressed

export default function Jobs({ workspace }) {
  const query = useQuery();
  const [enqueuing, setEnqueuing] = useState(false);
  const filter = Object.fromEntries(FIELDS.map((name) => [name, query.get(name) || undefined]));
  return html`<div class="page fill">
    <header class="page-head">
      <h1 tabindex="-1">Jobs</h1>
      <span class="spacer"></span>
      <button type="button" class="primary" onClick=${() => setEnqueuing(true)}>
        Enqueue a job
      </button>
    </header>
    ${
      query.get("grouped")
        ? html`<${Failures} workspace=${workspace} />`
        : html`<${JobMonitor} workspaceId=${workspace.id} filter=${filter} onFilter=${setQuery} />`
    }
    ${
      enqueuing &&
      html`<${EnqueueDialog} workspaceId=${workspace.id} onClose=${() => setEnqueuing(false)} />`
    }
  </div>`;
}

/** What went wrong, how often, and when last; of the Overview, too. */
export const FAILURE = [
  column("Jobs", "num strong", (group) => atLeast(group.jobs)),
  column("Type", (group) => group.job_type),
  column(
    "Error",
    "wrap wide",
    (group) => html`<a class="clamp" href=${`/jobs/${group.latest_id}`}>
      ${group.error_message ?? "no message"}
    </a>`,
  ),
  column("Latest", (group) => html`<${When} at=${group.last_at} />`),
];
export const failureKey = (group) => `${group.job_type} ${group.error_fingerprint}`;

/** Failed jobs by what went wrong, each group with the count it is out of, retried together. */
function Failures({ workspace }) {
  const read = useRead((signal) => api.failures(workspace.id, signal), [workspace.id]);
  const counts = useRead(() => api.counts(workspace.id), [workspace.id]);
  usePolling(read, EVERY_MS);
  const retry = async (group) => {
    const { job_type, error_fingerprint: print } = group;
    await actOnMany({
      workspaceId: workspace.id,
      action: "retry",
      filter: { job_type, ...(print && { error_fingerprint: print }) },
      known: read.value?.more ? undefined : group.jobs,
    });
    read.refresh();
  };
  return html`<div class="monitor">
    <${Tabs} counts=${counts.value} grouped />
    <section class="card" aria-label="Failures">
      ${listed(
        {
          of: read,
          label: "Failed jobs",
          rows: read.value?.groups,
          key: failureKey,
          cards: true,
          empty: html`<${Empty} title="No failed jobs">
            <p>Jobs out of attempts are kept here. A processor gives up at once by</p>
            <p><code>return Fail("customer not found")</code></p>
          <//>`,
        },
        [
          ...FAILURE,
          column("First", "phone-less", (group) => html`<${When} at=${group.first_at} />`),
          column(
            "Actions",
            "num",
            (group) => html`<${ActionButton} run=${() => retry(group)}>
              Retry ${number(group.jobs)}
            <//>`,
          ),
        ],
      )}
    </section>
  </div>`;
}
