// Keys that do something wherever the focus is.

import { useLayoutEffect } from "./ui.js";

/** Whether a key is pressed where it is written or answers a dialog. */
export const isTyped = (event) => Boolean(event.target.closest("input, textarea, select, dialog"));

/** Do something on a key, in place of what the browser does. */
export function useKey(isMeant, run) {
  // before painting: the next key may follow at once
  useLayoutEffect(() => {
    const onKey = (event) => {
      if (!isMeant(event)) return;
      event.preventDefault();
      run();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
}
