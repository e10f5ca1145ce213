// Sessions of a workspace, newest first.

import { useLatest } from "../../parts/live.js";
import { navigate } from "../../lib/router.js";
import { html } from "../../lib/ui.js";
import { ActionButton } from "../../parts/dialog.js";
import { Empty, pageHead } from "../../parts/states-of-view.js";
import { column, heading, liveList } from "../../parts/table.js";
import { When } from "../../parts/when.js";

export const title = () => "Chat";

/**
 * The id of a session is in the fragment of the URL, which browsers do not send, because the id
 * grants access to guest sessions.
 */
const addressOf = (id) => `/chat/session#${id}`;

export default function Sessions({ workspace }) {
  const found = useLatest("async_session_state", workspace.id, "last_message_at");
  const begin = async () => navigate(addressOf(`chat_${crypto.randomUUID()}`));
  return html`<div class="page">
    ${pageHead(
      "Chat",
      null,
      html`<${ActionButton} className="primary" run=${begin}>New conversation<//>`,
    )}
    ${liveList(
      {
        of: found,
        label: "Conversations",
        rows: found.value,
        key: (one) => one.session_id,
        empty: html`<${Empty} title="No conversations yet">
          <p>
            What takes longer is done in the background, asks you when it has to, and posts its
            result.
          </p>
          <${ActionButton} run=${begin}>Start one<//>
        <//>`,
      },
      [
        heading(
          "Conversation",
          "wrap",
          (one) => html`<a href=${addressOf(one.session_id)}>${one.title}</a>`,
        ),
        column("Latest message", "bare", (one) => html`<${When} at=${one.last_message_at} />`),
      ],
    )}
  </div>`;
}
