// Keys that do something wherever the focus is.

import { useLayoutEffect } from "./ui.js";

const WRITTEN = "input:not([type=checkbox]), textarea, select, dialog";

/** Whether a key is pressed where it is written or answers a dialog. */
export const isTyped = (event) => Boolean(event.target.closest(WRITTEN));

/** Do something on a key, in place of what the browser does. */
export function useKey(isMeant, run) {
  // before painting: the next key may follow at once
  useLayoutEffect(() => {
    const onKey = (event) => {
      if (!isMeant(event)) return;
      event.preventDefault();
      run(event);
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
}
