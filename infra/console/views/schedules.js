// What the clock enqueues, and when next.

import { html } from "../lib/ui.js";
import { Schedules as List } from "../parts/schedules.js";

/** @import { Workspace } from "../api.js" */

export const title = () => "Schedules";

/** @param {{workspace: Workspace}} props */
export default function Schedules({ workspace }) {
  return html`<div class="page"><header class="page-head"><h1 tabindex="-1">Schedules</h1><span class="muted">${workspace.name}</span></header>
    <${List} workspace=${workspace} />
  </div>`;
}
