// Command palette (Ctrl-K or Cmd-K) and shortcut help. It opens pages and runs common actions.

import { isTyping, useKey } from "../lib/keys.js";
import { createStore, useStore } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { Commands, Keys } from "./commands.js";

const isOpen = createStore(false);
export const openPalette = () => isOpen.set(true);

/** The palette, when it is open. */
export function Palette({ commands }) {
  const open = useStore(isOpen);
  useKey(
    (event) =>
      event.key.toLowerCase() === "k" &&
      (event.ctrlKey || event.metaKey) &&
      !event.shiftKey &&
      !event.altKey,
    () => isOpen.set((now) => !now),
  );
  return open && html`<${Commands} commands=${commands} close=${() => isOpen.set(false)} />`;
}

const isHelpOpen = createStore(false);
export const openShortcuts = () => isHelpOpen.set(true);

/** The help for shortcuts, which `?` opens. */
export function Shortcuts() {
  useKey((event) => event.key === "?" && !isTyping(event), openShortcuts);
  return useStore(isHelpOpen) && html`<${Keys} close=${() => isHelpOpen.set(false)} />`;
}
