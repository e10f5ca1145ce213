// Exports Preact, its hooks and htm as one module.

import htm from "htm";
import { h, render } from "preact";
import * as hooks from "preact/hooks";

export { h, hooks, render };
export {
  useCallback,
  useEffect,
  useErrorBoundary,
  useId,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from "preact/hooks";
export const html = htm.bind(h);

/** Join class names, without falsy values. */
export const classes = (...names) => names.filter(Boolean).join(" ");

/** Draw a button that is not emphasized. */
export const quietButton = (words, onClick, more) =>
  html`<button type="button" class="quiet" onClick=${onClick} ...${more}>${words}</button>`;
