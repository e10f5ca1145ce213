// Endpoints that are sent job events, and how that goes.

import { html } from "../lib/ui.js";
import { Webhooks as List } from "../parts/webhooks.js";

/** @import { Workspace } from "../api.js" */

export const title = () => "Webhooks";

/** @param {{workspace: Workspace}} props */
export default function Webhooks({ workspace }) {
  return html`<div class="page"><header class="page-head"><h1 tabindex="-1">Webhooks</h1><span class="muted">${workspace.name}</span></header>
    <${List} workspace=${workspace} />
  </div>`;
}
