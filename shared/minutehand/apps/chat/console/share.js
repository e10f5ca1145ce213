// The link by which someone without an account comes into a conversation.

import { html, useLayoutEffect, useRef, useState } from "../../lib/ui.js";
import { ActionButton, Dialog } from "../../parts/dialog.js";
import { copy } from "../../parts/copy.js";
import { When } from "../../parts/when.js";
import { chat, linkOf } from "./data.js";

/** @import { Conversation } from "./routes.js" */

const DAY = 86_400;
const SPANS = [
  [3600, "an hour"],
  [DAY, "a day"],
  [7 * DAY, "a week"],
  [30 * DAY, "thirty days"],
];

/** @param {{of: Conversation, isManager: boolean, onClose: () => void, onChanged: () => void}} props */
export function ShareDialog({ of, isManager, onClose, onChanged }) {
  const [seconds, setSeconds] = useState(DAY);
  const [problem, setProblem] = useState(/** @type {string | null} */ (null));
  const act = (/** @type {() => Promise<unknown>} */ what) => async () => {
    setProblem(null);
    try {
      await what();
      onChanged();
    } catch (error) {
      setProblem(error.message);
    }
  };
  const told = problem && html`<p class="problem" role="alert">${problem}</p>`;
  if (!of.shared_until) {
    return html`<${Dialog} title="Share with a guest" onClose=${onClose}><div class="stack" key="private">
      <p>Anyone who has the link reads all of this conversation, writes in it, and answers and cancels its work, without an account. It cannot be renamed or deleted by it.</p>
      <label class="field"><span>The link works for</span><select value=${seconds} onChange=${(/** @type {{target: HTMLSelectElement}} */ event) => setSeconds(Number(event.target.value))}>
        ${SPANS.map(([value, words]) => html`<option key=${value} value=${value}>${words}</option>`)}</select></label>
      ${told}
      <div class="actions"><button type="button" onClick=${onClose}>Close</button><${ActionButton} className="primary" run=${act(() => chat.share(of.id, seconds))}>Make the link<//></div>
    </div><//>`;
  }
  const link = linkOf(of);
  return html`<${Dialog} title="Shared with a guest" onClose=${onClose}><div class="stack" key="shared">
    <${Link} value=${link} />
    <p class="muted">It ends <${When} at=${of.shared_until} />.</p>
    ${told}
    <div class="actions">${isManager && html`<${ActionButton} className="danger" run=${act(() => chat.unshare(of.id))}>Stop sharing<//>`}<button type="button" onClick=${onClose}>Close</button>
      <button type="button" class="primary" onClick=${() => copy(link, "Copied the link")}>Copy</button></div>
  </div><//>`;
}

/**
 * The link, chosen as soon as it is there: a key pressed in haste copies it, and stops nothing.
 *
 * @param {{value: string}} props
 */
function Link({ value }) {
  const field = useRef(/** @type {HTMLInputElement | null} */ (null));
  useLayoutEffect(() => /** @type {HTMLInputElement} */ (field.current).focus(), []);
  return html`<label class="field"><span>The link, which is the key</span><input ref=${field} type="text" readonly value=${value} onFocus=${(/** @type {{target: HTMLInputElement}} */ event) => event.target.select()} /></label>`;
}
