// Keys that do something wherever the focus is.

import { useLayoutEffect } from "./ui.js";

const TEXT_INPUTS = "input:not([type=checkbox]), textarea, select, dialog";

/** Whether a key is pressed where it is written or answers a dialog. */
export const isTyping = (event) => Boolean(event.target.closest(TEXT_INPUTS));

/** Do something on a key, in place of what the browser does. */
export function useKey(isMatch, run) {
  // before painting: the next key may follow at once
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
