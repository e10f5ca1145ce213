// Sessions of a workspace: latest first, each with its state.

import { counted } from "../../lib/format.js";
import { useLivePages } from "../../lib/live.js";
import { navigate } from "../../lib/router.js";
import { html } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { ActionButton } from "../../parts/dialog.js";
import { liveList } from "../../parts/live-list.js";
import { Empty } from "../../parts/states-of-view.js";
import { column, heading } from "../../parts/table.js";
import { When } from "../../parts/when.js";
import { addressOf, listSessions, newAddress, standing } from "./data.js";

export const title = () => "Chat";

/** @param {{workspace: import("../../api.js").Workspace}} props */
export default function Conversations({ workspace }) {
  const found = useLivePages(workspace.id, listSessions);
  // a conversation that was written in meanwhile has moved up, and is on two pages
  const shown = [
    ...new Map(
      (found.value ?? []).flatMap((page) => page.sessions).map((one) => [one.session_id, one]),
    ).values(),
  ];
  const begin = async () => navigate(newAddress());
  return html`<div class="page">
    <header class="page-head">
      <h1 tabindex="-1">Chat</h1>
      <span class="spacer"></span>
      <${Freshness} value=${found.freshness} />
      <${ActionButton} className="primary" run=${begin}>New conversation<//>
    </header>
    ${liveList(
      {
        of: found,
        what: "conversations",
        label: "Conversations",
        rows: shown,
        key: (one) => one.session_id,
        empty: html`<${Empty} title="Nothing said yet">
          Begin a conversation. What takes longer is done in the background, asks you when it has to, and posts its result.
        <//>`,
      },
      [
        heading(
          "Conversation",
          "wrap",
          (one) => html`
            <a href=${addressOf(one.session_id)}>${one.title ?? "New conversation"}</a>
            <div class="muted small">${counted(one.messages, "message")}</div>
          `,
        ),
        column(
          "State",
          (one) => html`<${Tag} tone=${standing(one).tone}>${standing(one).word}<//>`,
        ),
        column("Latest message", (one) => html`<${When} at=${one.last_message_at} />`),
      ],
    )}
  </div>`;
}
