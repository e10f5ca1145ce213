// Conversations of a workspace: latest first, each with its state.

import { counted } from "../../lib/format.js";
import { useLivePages } from "../../lib/live.js";
import { navigate } from "../../lib/router.js";
import { html } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { ActionButton } from "../../parts/dialog.js";
import { Empty, Failed, Loading, Stale } from "../../parts/states-of-view.js";
import { notifyFailure } from "../../parts/toasts.js";
import { When } from "../../parts/when.js";
import { chat, newKey, standing, titleOf } from "./data.js";

export const title = () => "Chat";

/** @param {{workspace: import("../../api.js").Workspace}} props */
export default function Conversations({ workspace }) {
  const found = useLivePages(workspace.id, chat.list);
  // a conversation that was written in meanwhile has moved up, and is on two pages
  const shown = [
    ...new Map(
      (found.value ?? []).flatMap((page) => page.conversations).map((one) => [one.id, one]),
    ).values(),
  ];
  const begin = async () => {
    try {
      navigate(`/chat/${(await chat.begin(workspace.id, newKey())).id}`);
    } catch (error) {
      notifyFailure("No conversation was begun", error);
    }
  };
  return html`<div class="page">
    <header class="page-head"><h1 tabindex="-1">Chat</h1><span class="spacer"></span><${Freshness} value=${found.freshness} />
      <${ActionButton} className="primary" run=${begin}>New conversation<//></header>
    <section class="card" aria-labelledby="h-conversations"><h2 id="h-conversations">Conversations</h2>
      ${found.isStale && html`<${Stale} error=${found.error} retry=${found.refresh} />`}
      ${!found.value && found.error && html`<${Failed} error=${found.error} retry=${found.refresh} what="The conversations could not be read" />`}
      ${!found.value && !found.error && html`<${Loading} what="Reading the conversations" />`}
      ${
        found.value &&
        (shown.length === 0
          ? html`<${Empty} title="Nothing said yet">Begin a conversation. What takes longer is done in the background, asks you when it has to, and posts its result.<//>`
          : html`<div class="scroll-x" tabindex="0" role="group" aria-label="Conversations"><table class="table"><thead><tr><th scope="col">Conversation</th><th scope="col">State</th><th scope="col">Latest message</th></tr></thead>
          <tbody>${shown.map(
            (
              one,
            ) => html`<tr key=${one.id}><th scope="row" class="wrap"><a href=${`/chat/${one.id}`}>${titleOf(one)}</a><div class="muted small">${counted(one.messages, "message")}</div></th>
            <td><${Tag} tone=${standing(one).tone}>${standing(one).word}<//></td><td><${When} at=${one.last_message_at} /></td></tr>`,
          )}</tbody></table></div>
          ${found.more && html`<div class="actions start"><button type="button" class="quiet" onClick=${found.more}>Older conversations</button></div>`}`)
      }
    </section>
  </div>`;
}
