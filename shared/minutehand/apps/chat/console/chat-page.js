// A conversation for members: it may be renamed, deleted, and shared with a guest.

import { navigate } from "../../lib/router.js";
import { html, useState } from "../../lib/ui.js";
import { ActionButton, Dialog } from "../../parts/dialog.js";
import { Going, useRemoval } from "../../parts/removal.js";
import NotFound from "../../views/not-found.js";
import { Conversation } from "./conversation.js";
import { chat } from "./data.js";
import { ShareDialog } from "./share.js";

/** @import { Workspace } from "../../api.js" */
/** @import { Reader } from "./message.js" */
/** @import { Conversation as Found } from "./routes.js" */

export const title = () => "Conversation";

/** @param {{id: string, user: Reader, workspace: Workspace}} props */
export default function ChatPage({ id, user, workspace }) {
  const { isGoing, remove } = useRemoval();
  if (isGoing) return html`<${Going} what="Conversation" />`;
  const removeIt = () =>
    remove(
      {
        title: "Delete this conversation?",
        text: "What was said goes for good, and work that is under way is cancelled.",
      },
      () => chat.remove(id),
      () => navigate("/chat"),
    );
  return html`<${Conversation} key=${id} id=${id} functions=${chat} user=${user} crumb=${html`<a href="/chat">Chat</a>`}
    gone=${html`<${NotFound} what="conversation" />`}
    tools=${(/** @type {Found} */ conversation, /** @type {() => void} */ refresh) => html`<${Tools} conversation=${conversation} user=${user} isManager=${workspace.role === "manager"} refresh=${refresh} remove=${removeIt} />`} />`;
}

/**
 * @param {{conversation: Found, user: Reader, isManager: boolean, refresh: () => void,
 *   remove: () => Promise<void>}} props
 */
function Tools({ conversation, user, isManager, refresh, remove }) {
  const [open, setOpen] = useState(/** @type {"rename" | "share" | null} */ (null));
  const isShared = Boolean(conversation.shared_until);
  const close = () => {
    setOpen(null);
    refresh();
  };
  return html`
    ${(isManager || isShared) && html`<button type="button" onClick=${() => setOpen("share")}>${isShared ? "Shared with a guest" : "Share with a guest"}</button>`}
    ${(isManager || conversation.created_by === user.id) && html`<button type="button" onClick=${() => setOpen("rename")}>Rename</button><${ActionButton} className="danger" run=${remove}>Delete<//>`}
    ${open === "rename" && html`<${RenameDialog} of=${conversation} onClose=${() => setOpen(null)} onRenamed=${close} />`}
    ${open === "share" && html`<${ShareDialog} of=${conversation} isManager=${isManager} onClose=${() => setOpen(null)} onChanged=${refresh} />`}`;
}

/** @param {{of: Found, onClose: () => void, onRenamed: () => void}} props */
function RenameDialog({ of, onClose, onRenamed }) {
  const [text, setText] = useState(of.title ?? "");
  const [problem, setProblem] = useState(/** @type {string | null} */ (null));
  const submit = async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    try {
      await chat.rename(of.id, text.trim());
      onRenamed();
    } catch (error) {
      setProblem(error.message);
    }
  };
  return html`<${Dialog} title="Rename the conversation" onClose=${onClose}><form class="stack" onSubmit=${submit}>
    <label class="field"><span>Title</span><input type="text" required maxlength="200" value=${text} onInput=${(/** @type {{target: HTMLInputElement}} */ event) => setText(event.target.value)} /></label>
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <div class="actions"><button type="button" onClick=${onClose}>Close</button><button type="submit" class="primary" disabled=${!text.trim()}>Rename</button></div>
  </form><//>`;
}
