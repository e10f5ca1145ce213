// Sessions of a workspace, the latest first, as row level security shows them.

import { data, unwrap } from "../../api.js";
import { navigate } from "../../lib/router.js";
import { usePolling, useRead } from "../../lib/store.js";
import { html } from "../../lib/ui.js";
import { ActionButton } from "../../parts/dialog.js";
import { Empty } from "../../parts/states-of-view.js";
import { column, heading, table } from "../../parts/table.js";
import { Unread } from "../../parts/unread.js";
import { When } from "../../parts/when.js";

/** @typedef {{session_id: string, title: string, last_message_at: string}} Session */

export const title = () => "Chat";

/** Sessions are named behind the #, which no browser sends: the id is the key of a guest's session. */
const addressOf = (/** @type {string} */ id) => `/chat/session#${id}`;

/** @param {{workspace: import("../../api.js").Workspace}} props */
export default function Sessions({ workspace }) {
  const found = useRead(
    (signal) =>
      /** @type {Promise<Session[]>} */ (
        unwrap(
          data()
            .from("async_session_state")
            .select("*")
            .eq("workspace_id", workspace.id)
            .order("last_message_at", { ascending: false })
            .limit(100)
            .abortSignal(signal),
        )
      ),
    [workspace.id],
  );
  usePolling(found, 15_000);
  const begin = async () => navigate(addressOf(`chat_${crypto.randomUUID()}`));
  return html`<div class="page">
    <header class="page-head">
      <h1 tabindex="-1">Chat</h1>
      <span class="spacer"></span>
      <${ActionButton} className="primary" run=${begin}>New conversation<//>
    </header>
    ${!found.value && html`<${Unread} of=${found} what="the conversations" />`}
    ${
      found.value?.length === 0 &&
      html`<${Empty} title="No conversations yet">
        Begin one. What takes longer is done in the background, asks you when it has to, and posts its result.
      <//>`
    }
    ${
      (found.value?.length ?? 0) > 0 &&
      table(
        {
          label: "Conversations",
          rows: found.value ?? [],
          key: (/** @type {Session} */ one) => one.session_id,
        },
        [
          heading(
            "Conversation",
            "wrap",
            (/** @type {Session} */ one) =>
              html`<a href=${addressOf(one.session_id)}>${one.title}</a>`,
          ),
          column(
            "Latest message",
            (/** @type {Session} */ one) => html`<${When} at=${one.last_message_at} />`,
          ),
        ],
      )
    }
  </div>`;
}
