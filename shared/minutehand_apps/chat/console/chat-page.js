// A session for members, and for anyone who holds its link: /guest/chat#guest_….
// The key stays in the fragment, which no browser sends, and travels in a header.

import { navigate } from "../../lib/router.js";
import { html, useLayoutEffect, useMemo, useState } from "../../lib/ui.js";
import { ActionButton } from "../../parts/dialog.js";
import { Going, useRemoval } from "../../parts/removal.js";
import NotFound from "../../views/not-found.js";
import { Conversation } from "./conversation.js";
import { namedBy, sessionOf } from "./data.js";

/** @import { Workspace } from "../../api.js" */
/** @import { ChatSession, Talk } from "./data.js" */

export const title = () => "Conversation";

/** One sentence for what is missing, closed, over or mistyped: they must look alike. */
const Closed = () => html`<article class="page chat">
  <header class="page-head"><h1 tabindex="-1">No open conversation</h1></header>
  <p role="alert">
    This link leads to no open conversation: it has ended, was closed, or is not complete. Ask the sender for a new one.
  </p>
</article>`;

/** @param {{workspace?: Workspace}} props A guest has no workspace. */
export default function ChatPage({ workspace }) {
  const [id, setId] = useState(namedBy(location.hash));
  useLayoutEffect(() => {
    const look = () => setId(namedBy(location.hash));
    addEventListener("hashchange", look);
    return () => removeEventListener("hashchange", look);
  }, []);
  if (!id) return workspace ? html`<${NotFound} what="conversation" />` : html`<${Closed} />`;
  return html`<${Session} key=${id} id=${id} workspace=${workspace} />`;
}

/** @param {{id: string, workspace?: Workspace}} props */
function Session({ id, workspace }) {
  const session = useMemo(() => sessionOf(id, workspace?.id), [id, workspace?.id]);
  const { isGoing, remove } = useRemoval();
  if (isGoing) return html`<${Going} what="Conversation" />`;
  const removeIt = () =>
    remove(
      {
        title: "Delete this conversation?",
        text: "What was said goes for good, and work that is under way is cancelled.",
      },
      session.remove,
      () => navigate("/chat"),
    );
  return html`<${Conversation}
    session=${session}
    isMember=${Boolean(workspace)}
    gone=${html`<${Closed} />`}
    crumb=${workspace && html`<a href="/chat">Chat</a>`}
    tools=${(/** @type {Talk} */ talk) =>
      workspace &&
      talk.mayDelete &&
      html`<${ActionButton} className="danger" run=${removeIt}>
        Delete
      <//>`} />`;
}
