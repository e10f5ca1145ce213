// Preact, its hooks and htm as one import. The npm files are used unchanged: their UMD builds
// come as classic scripts in index.html, because import maps must be inline and the policy
// forbids inline scripts.

import htm from "/vendor/htm/dist/htm.module.js";

const { preact, preactHooks } = globalThis;

export const { h, render } = preact;
export const { useState, useEffect, useLayoutEffect, useMemo, useCallback, useRef, useId } =
  preactHooks;
export const hooks = preactHooks;
export const html = htm.bind(h);

/** A class list from strings and falsy values. */
export const classes = (...names) => names.filter(Boolean).join(" ");

/** A button beside the point. */
export const quietButton = (words, onClick, more) =>
  html`<button type="button" class="quiet" onClick=${onClick} ...${more}>${words}</button>`;
