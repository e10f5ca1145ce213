// Who belongs to the workspace, and who is invited.

import { html } from "../lib/ui.js";
import { Members as List } from "../parts/members.js";

/** @import { Workspace } from "../api.js" */

export const title = () => "Members";

/** @param {{workspace: Workspace}} props */
export default function Members({ workspace }) {
  return html`<div class="page"><header class="page-head"><h1 tabindex="-1">Members</h1><span class="muted">${workspace.name}</span></header>
    <${List} workspace=${workspace} />
  </div>`;
}
