// Keyboard shortcuts that work with any focus.

import { useLayoutEffect } from "./ui.js";

const TEXT_INPUTS = "input:not([type=checkbox]), textarea, select, dialog";

/** Whether a key event belongs to a text input or a dialog. */
export const isTyping = (event) => Boolean(event.target.closest(TEXT_INPUTS));

/** Run an action on a key instead of the browser's action. */
export function useKey(isMatch, run) {
  // before painting, because the next key press may follow immediately
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
