// Who cancelled, retried, answered or paused what, and what operators listed and opened.

import { data, operator, unwrap } from "../api.js";
import { isAll } from "../lib/scope.js";
import { useRead } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { Actions } from "../parts/actions.js";
import { Empty } from "../parts/states-of-view.js";
import { Unread } from "../parts/unread.js";
import { pageHead } from "../parts/page-head.js";

/** @import { Workspace } from "../api.js" */

export const title = () => "Activity";

const PAGE = 50;

const readPage = async (
  /** @type {Workspace} */ workspace,
  /** @type {number | null} */ before,
  /** @type {AbortSignal} */ signal,
) => {
  if (isAll(workspace)) return operator.actions(before, signal);
  return (
    await unwrap(
      data()
        .rpc("list_actions", { p_workspace_id: workspace.id, p_before: before })
        .abortSignal(signal),
    )
  ).actions;
};

/** @param {{workspace: Workspace}} props */
export default function Activity({ workspace }) {
  const [before, setBefore] = useState(/** @type {number | null} */ (null));
  const read = useRead((signal) => readPage(workspace, before, signal), [workspace.id, before]);
  return html`<div class="page">
    ${pageHead("Activity", workspace.name)}
    <section class="card" aria-label="Actions">
      ${
        !read.value
          ? html`<${Unread} of=${read} what="the activity" />`
          : read.value.length === 0
            ? html`<${Empty} title="No actions yet">
              Cancels, retries, answers and pauses appear here with the person, and each time an operator opened the workspace.
            <//>`
            : html`<${Actions} actions=${read.value} isAll=${isAll(workspace)} />`
      }
      <div class="bar">
        ${
          before &&
          html`<button type="button" class="quiet" onClick=${() => setBefore(null)}>
            Latest
          </button>`
        }
        ${
          read.value?.length === PAGE &&
          html`<button type="button" class="quiet" onClick=${() => setBefore(read.value.at(-1).id)}>
            Earlier
          </button>`
        }
      </div>
    </section>
  </div>`;
}
