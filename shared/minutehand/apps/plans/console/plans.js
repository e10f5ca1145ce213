// Plans: what is being planned in a workspace, and a form for a new prompt.

import { useLivePages } from "../../lib/live.js";
import { navigate } from "../../lib/router.js";
import { html, useState } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { Empty, Failed, Loading, Stale } from "../../parts/states-of-view.js";
import { When } from "../../parts/when.js";
import { plans, STATES } from "./data.js";
import { PlanDialog } from "./plan-dialog.js";

/** @import { Workspace } from "../../api.js" */
/** @import { Created } from "./routes.js" */

export const title = () => "Plans";

/** @param {{workspace: Workspace}} props */
export default function Plans({ workspace }) {
  const found = useLivePages(workspace.id, plans.list);
  const [isWriting, setIsWriting] = useState(false);
  const shown = found.value?.flatMap((page) => page.plans) ?? [];
  return html`<div class="page">
    <header class="page-head"><h1 tabindex="-1">Plans</h1><span class="spacer"></span><${Freshness} value=${found.freshness} />
      <button type="button" class="primary" onClick=${() => setIsWriting(true)}>New plan</button></header>
    <section class="card" aria-labelledby="h-plans"><h2 id="h-plans">Prompts</h2>
      ${found.isStale && html`<${Stale} error=${found.error} retry=${found.refresh} />`}
      ${!found.value && found.error && html`<${Failed} error=${found.error} retry=${found.refresh} what="The plans could not be read" />`}
      ${!found.value && !found.error && html`<${Loading} what="Reading the plans" />`}
      ${
        found.value &&
        (shown.length === 0
          ? html`<${Empty} title="Nothing planned yet">Describe what is to be done; the plan is computed stage by stage while you watch, and there is always a report.<//>`
          : html`<div class="scroll-x" tabindex="0" role="group" aria-label="Plans"><table class="table"><thead><tr><th scope="col">Prompt</th><th scope="col">State</th><th scope="col">Created</th></tr></thead>
          <tbody>${shown.map((plan) => html`<tr key=${plan.plan_id}><th scope="row" class="wrap"><a href=${`/plans/${plan.plan_id}`}>${plan.prompt.length > 120 ? `${plan.prompt.slice(0, 119)}…` : plan.prompt}</a></th><td><${Tag} tone=${STATES[plan.status].tone}>${STATES[plan.status].word}<//></td><td><${When} at=${plan.created_at} /></td></tr>`)}</tbody></table></div>
          ${found.more && html`<div class="actions start"><button type="button" class="quiet" onClick=${found.more}>Older plans</button></div>`}`)
      }
    </section>
    ${isWriting && html`<${PlanDialog} workspaceId=${workspace.id} onClose=${() => setIsWriting(false)} onCreated=${(/** @type {Created} */ plan) => navigate(`/plans/${plan.plan_id}`)} />`}
  </div>`;
}
