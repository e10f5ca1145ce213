// How much a workspace may use, how long its jobs are kept.

import { html } from "../lib/ui.js";
import { Retention } from "../parts/retention.js";
import { WorkspaceLimits } from "../parts/workspace-limits.js";
import { pageHead } from "../parts/page-head.js";

/** @import { Workspace } from "../api.js" */

export const title = () => "Limits";

/** @param {{workspace: Workspace}} props */
export default function Limits({ workspace }) {
  return html`<div class="page">
    ${pageHead("Limits", workspace.name)}
    <${WorkspaceLimits} workspace=${workspace} />
    <${Retention} workspaceId=${workspace.id} />
  </div>`;
}
