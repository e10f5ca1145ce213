// Preact, its hooks and htm as one import. The npm files are used unchanged. Their UMD builds are
// classic scripts in index.html, because import maps must be inline and the content policy forbids
// inline scripts.

import htm from "/vendor/htm/dist/htm.module.js";

const { preact, preactHooks } = globalThis;

export const { h, render } = preact;
export const { useState, useEffect, useLayoutEffect, useMemo, useCallback, useRef, useId } =
  preactHooks;
export const { useErrorBoundary } = preactHooks;
export const hooks = preactHooks;
export const html = htm.bind(h);

/** Join class names, without falsy values. */
export const classes = (...names) => names.filter(Boolean).join(" ");

/** Draw a button without emphasis. */
export const quietButton = (words, onClick, more) =>
  html`<button type="button" class="quiet" onClick=${onClick} ...${more}>${words}</button>`;
