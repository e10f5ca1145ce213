// Keyboard shortcuts that work wherever the keyboard focus is.

import { useLayoutEffect } from "./ui.js";

const TEXT_INPUTS = "input:not([type=checkbox]), textarea, select, dialog";

/**
 * Return whether a key event happened in a text input or a dialog. Keyboard shortcuts ignore these
 * key events.
 */
export const isTyping = (event) => Boolean(event.target.closest(TEXT_INPUTS));

/** Run an action when a person presses a key, instead of the browser's own action for the key. */
export function useKey(isMatch, run) {
  // subscribe to key events before painting, because the next key press may follow immediately
  useLayoutEffect(() => {
    const onKey = (event) => {
      if (!isMatch(event)) return;
      event.preventDefault();
      run(event);
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
}
