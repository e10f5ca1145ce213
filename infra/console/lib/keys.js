// Keyboard shortcuts that work wherever the focus is.

import { useLayoutEffect } from "./ui.js";

const TEXT_INPUTS = "input:not([type=checkbox]), textarea, select, dialog";

/** Whether a key event belongs to a text input or a dialog, so that shortcuts ignore it. */
export const isTyping = (event) => Boolean(event.target.closest(TEXT_INPUTS));

/** Run an action when a key is pressed, in place of the browser's action. */
export function useKey(isMatch, run) {
  // run before painting, because the next key press may follow immediately
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
