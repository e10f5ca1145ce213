// Exports Preact, Preact's hooks and htm from one module.

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

/** Join the names of CSS classes. Arguments that are falsy are left out. */
export const classes = (...names) => names.filter(Boolean).join(" ");

/** Return whether the screen is as narrow as a phone's. */
export const isPhone = () => matchMedia("(max-width: 46rem)").matches;

/** Return a button that shows or hides what is below it. */
export const foldButton = (words, isOpen, flip) =>
  html`<button type="button" class="fold" aria-expanded=${isOpen} onClick=${flip}>
    ${words}
  </button>`;

/** Return a button in a style without emphasis. */
export const quietButton = (words, onClick, more) =>
  html`<button type="button" class="quiet" onClick=${onClick} ...${more}>${words}</button>`;
