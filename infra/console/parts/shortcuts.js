// Dialog that explains the keyboard shortcuts. The key `?` opens this dialog.

import { isTyping, useKey } from "../lib/keys.js";
import { html, useState } from "../lib/ui.js";
import { Dialog } from "./dialog.js";

const KEYS = [
  ["/", "Search this list"],
  ["J K, ↑ ↓", "Move through the rows of a list"],
  ["Enter", "Open the row"],
  ["Space", "Select or deselect the row in focus"],
  ["Esc", "Close the dialog"],
];

export function Shortcuts() {
  const [isOpen, setIsOpen] = useState(false);
  const close = () => setIsOpen(false);
  useKey(
    (event) => event.key === "?" && !isTyping(event),
    () => setIsOpen(true),
  );
  if (!isOpen) return null;
  return html`<${Dialog} title="Keyboard shortcuts" onClose=${close}>
    <dl class="shortcuts">
      ${KEYS.map(
        ([key, action]) => html`<div key=${key}><dt><kbd>${key}</kbd></dt><dd>${action}</dd></div>`,
      )}
    </dl>
    <div class="actions">
      <button type="button" onClick=${close}>Close</button>
    </div>
  <//>`;
}
