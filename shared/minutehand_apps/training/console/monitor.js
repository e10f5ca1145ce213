// The job monitor over all trainings; its filter is in the address.

import { setQuery, useQuery } from "../../lib/router.js";
import { html } from "../../lib/ui.js";
import { JobMonitor } from "./job-monitor.js";

export const title = () => "Job monitor";

export default function Monitor({ workspace }) {
  const query = useQuery();
  const filter = { status: query.get("status") ?? undefined, type: query.get("type") ?? undefined };
  return html`<div class="page">
    <header class="page-head">
      <div class="grow">
        <p class="crumb"><a href="/trainings">Training</a></p>
        <h1 tabindex="-1">Job monitor</h1>
      </div>
    </header>
    <${JobMonitor} workspaceId=${workspace.id} filter=${filter} onFilter=${setQuery} />
  </div>`;
}
