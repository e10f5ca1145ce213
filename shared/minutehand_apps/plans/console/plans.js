// Plans: what is being planned in a workspace, and a form for a new prompt.

import { useLivePages } from "../../lib/live.js";
import { navigate } from "../../lib/router.js";
import { html, useState } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { liveList } from "../../parts/live-list.js";
import { Empty } from "../../parts/states-of-view.js";
import { column, heading } from "../../parts/table.js";
import { When } from "../../parts/when.js";
import { plans, shortened, STATES } from "./data.js";
import { PlanDialog } from "./plan-dialog.js";

/** @import { Workspace } from "../../api.js" */
/** @import { Created } from "./routes.js" */

export const title = () => "Plans";

/** @param {{workspace: Workspace}} props */
export default function Plans({ workspace }) {
  const found = useLivePages(workspace.id, plans.list);
  const [isWriting, setIsWriting] = useState(false);
  return html`<div class="page">
    <header class="page-head">
      <h1 tabindex="-1">Plans</h1>
      <span class="spacer"></span>
      <${Freshness} value=${found.freshness} />
      <button type="button" class="primary" onClick=${() => setIsWriting(true)}>New plan</button>
    </header>
    ${liveList(
      {
        of: found,
        what: "plans",
        label: "Prompts",
        rows: found.value?.flatMap((page) => page.plans) ?? [],
        key: (plan) => plan.plan_id,
        empty: html`<${Empty} title="Nothing planned yet">
          Describe what is to be done; the plan is computed stage by stage while you watch, and there is always a report.
        <//>`,
      },
      [
        heading(
          "Prompt",
          "wrap",
          (plan) => html`<a href=${`/plans/${plan.plan_id}`}>${shortened(plan.prompt, 120)}</a>`,
        ),
        column(
          "State",
          ({ status }) => html`<${Tag} tone=${STATES[status].tone}>${STATES[status].word}<//>`,
        ),
        column("Created", (plan) => html`<${When} at=${plan.created_at} />`),
      ],
    )}
    ${
      isWriting &&
      html`<${PlanDialog}
        workspaceId=${workspace.id}
        onClose=${() => setIsWriting(false)}
        onCreated=${(/** @type {Created} */ plan) => navigate(`/plans/${plan.plan_id}`)} />`
    }
  </div>`;
}
