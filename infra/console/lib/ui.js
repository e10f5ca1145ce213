// Preact, its hooks and htm as one import. The npm files are used unchanged: their UMD builds
// come as classic scripts in index.html, because import maps must be inline and the policy
// forbids inline scripts.

import htm from "/vendor/htm/dist/htm.module.js";

const { preact, preactHooks } = globalThis;

export const { h, render } = preact;
export const { useState, useEffect, useLayoutEffect, useMemo, useCallback, useRef, useId } =
  preactHooks;
export const hooks = preactHooks;
/** @type {(strings: TemplateStringsArray, ...values: any[]) => import("preact").VNode} */
export const html = /** @type {any} */ (htm.bind(/** @type {any} */ (h)));

/** A class list from strings and falsy values. */
export const classes = (/** @type {any[]} */ ...names) => names.filter(Boolean).join(" ");
