// The keyboard palette: Ctrl-K or Cmd-K, type, Enter. Goes anywhere, does the common things.

import { isTyping, useKey } from "../lib/keys.js";
import { lazy } from "./lazy.js";
import { createStore, useStore } from "../lib/store.js";
import { html } from "../lib/ui.js";

const Commands = lazy(() => import("./commands.js"), "Commands");
const Keys = lazy(() => import("./commands.js"), "Keys");

const isOpen = createStore(false);
export const openPalette = () => isOpen.set(true);

/** Where the palette appears. */
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

/** What the keyboard does, on `?`. */
export function Shortcuts() {
  useKey((event) => event.key === "?" && !isTyping(event), openShortcuts);
  return useStore(isHelpOpen) && html`<${Keys} close=${() => isHelpOpen.set(false)} />`;
}
