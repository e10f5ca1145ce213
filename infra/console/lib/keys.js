// Keys that do something wherever the focus is.

import { useLayoutEffect } from "./ui.js";

/** Whether a key is pressed where it is written or answers a dialog. */
export const isTyped = (/** @type {KeyboardEvent} */ event) =>
  Boolean(/** @type {Element} */ (event.target).closest("input, textarea, select, dialog"));

/**
 * Do something on a key, in place of what the browser does.
 *
 * @param {(event: KeyboardEvent) => boolean} isMeant
 * @param {() => void} run Of the first drawing: it may use what stays.
 */
export function useKey(isMeant, run) {
  // before painting: the next key may follow at once
  useLayoutEffect(() => {
    const onKey = (/** @type {KeyboardEvent} */ event) => {
      if (!isMeant(event)) return;
      event.preventDefault();
      run();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
}
