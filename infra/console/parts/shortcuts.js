// What the keyboard does, on `?`.

import { isTyped, useKey } from "../lib/keys.js";
import { createStore, useStore } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { Dialog } from "./dialog.js";

const isOpen = createStore(false);
export const openShortcuts = () => isOpen.set(true);

/** @type {Array<[where: string, keys: Array<[key: string, does: string]>]>} */
const KEYS = [
  [
    "Everywhere",
    [
      ["Ctrl K", "Go to a page, an action or a job"],
      ["/", "Search this list"],
      ["?", "This help"],
      ["Esc", "Close the dialog"],
    ],
  ],
  [
    "In lists",
    [
      ["↑ ↓", "Row by row"],
      ["Enter", "Open the row"],
      ["Space", "Select it, on its box"],
    ],
  ],
  [
    "In a waterfall",
    [
      ["↑ ↓", "Row by row"],
      ["← →", "Fold and unfold, or move in time"],
      ["+ −", "Zoom in and out"],
      ["Z", "Zoom to the row"],
      ["0", "Show the whole"],
      ["Enter", "Open the child job"],
    ],
  ],
];

/** Where the help appears; once, in the shell. */
export function Shortcuts() {
  const open = useStore(isOpen);
  useKey(
    (event) =>
      event.key === "?" && !event.ctrlKey && !event.metaKey && !event.altKey && !isTyped(event),
    openShortcuts,
  );
  if (!open) return null;
  return html`<${Dialog} title="Keyboard shortcuts" onClose=${() => isOpen.set(false)}>
    ${KEYS.map(
      ([where, keys]) => html`<section key=${where} aria-label=${where}>
        <h3>${where}</h3>
        <dl class="shortcuts">
          ${keys.map(
            ([key, does]) => html`<div key=${key}>
              <dt><kbd>${key}</kbd></dt>
              <dd>${does}</dd>
            </div>`,
          )}
        </dl>
      </section>`,
    )}
    <div class="actions">
      <button type="button" onClick=${() => isOpen.set(false)}>Close</button>
    </div>
  <//>`;
}
