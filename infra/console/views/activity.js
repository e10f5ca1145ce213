// Who cancelled, retried, answered or paused what, and what operators listed and opened.

import { rpc } from "../api.js";
import { isAll } from "../lib/scope.js";
import { useRead } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { Actions } from "../parts/actions.js";
import { Empty } from "../parts/states-of-view.js";
import { Unread } from "../parts/unread.js";
import { pageHead, pager } from "../parts/page-head.js";

/** @import { Workspace } from "../api.js" */
/** @import { Action } from "../parts/actions.js" */

export const title = () => "Activity";

const PAGE = 50;

/** @param {{workspace: Workspace}} props */
export default function Activity({ workspace }) {
  const [before, setBefore] = useState(/** @type {number | null} */ (null));
  const scope = isAll(workspace) ? null : workspace.id;
  const read = useRead(
    (signal) => rpc("list_actions", { p_workspace_id: scope, p_before: before }, signal),
    [scope, before],
  );
  /** @type {Action[]} */
  const actions = read.value?.actions ?? [];
  return html`<div class="page">
    ${pageHead("Activity", workspace.name)}
    <section class="card" aria-label="Actions">
      ${
        !read.value
          ? html`<${Unread} of=${read} what="the activity" />`
          : actions.length === 0
            ? html`<${Empty} title="No actions yet">
              Cancels, retries, answers and pauses appear here with the person, and each time an operator opened the workspace.
            <//>`
            : html`<${Actions} actions=${actions} isAll=${isAll(workspace)} />`
      }
      ${pager({
        Latest: before !== null && (() => setBefore(null)),
        Earlier: actions.length === PAGE && (() => setBefore(actions[PAGE - 1].id)),
      })}
    </section>
  </div>`;
}
