// Dialog in which a person creates, copies and revokes a public link.

import { html, useState } from "../lib/ui.js";
import { copy } from "./copy.js";
import { ActionButton, Dialog } from "./dialog.js";
import { createAction } from "./toasts.js";

/**
 * Button with a dialog that creates and revokes a public link by calls of `share(isShared)`.
 * `address` is the address of the current link, or is missing if there is no link.
 */
export function ShareButton({ what, address, share, refresh }) {
  const [isOpen, setIsOpen] = useState(false);
  const act = createAction(refresh);
  const link = address && new URL(address, location.href).href;
  const set = (isShared) => () => act("Could not change the link", () => share(isShared));
  return html`
    <button type="button" onClick=${() => setIsOpen(true)}>${link ? "Shared" : "Share"}</button>
    ${
      isOpen &&
      html`<${Dialog} title=${`Share ${what}`} onClose=${() => setIsOpen(false)}>
        <p>Anyone who has the link can read ${what}, without an account, until you end the link.</p>
        ${
          link &&
          html`<input
            type="text"
            readonly
            value=${link}
            aria-label="Link"
            onFocus=${(event) => event.target.select()} />`
        }
        <div class="actions">
          <button type="button" onClick=${() => setIsOpen(false)}>Close</button>
          ${
            link
              ? html`
                <${ActionButton} className="danger" run=${set(false)}>End the link<//>
                <a class="button" href=${link} target="_blank" rel="noopener">Open</a>
                <button
                  type="button"
                  class="primary"
                  onClick=${() => copy(link, "Copied the link")}>
                  Copy link
                </button>
              `
              : html`<${ActionButton} className="primary" run=${set(true)}>Make a link<//>`
          }
        </div>
      <//>`
    }
  `;
}
