// Notices of views that are loading, empty, failed or stale.

import { html, quietButton, useErrorBoundary, useLayoutEffect } from "../lib/ui.js";

/** Notice of a first read that is in flight. */
export const Loading = ({ what = "Loading" }) =>
  html`<div class="notice loading" role="status">
    <span class="spinner" aria-hidden="true"></span>
    ${what}…
  </div>`;

/** Notice of an empty list, with the reason and the next step. */
export const Empty = ({ title, children }) =>
  html`<div class="notice empty">
    <p class="strong">${title}</p>
    ${children && html`<div>${children}</div>`}
  </div>`;

/** Notice of a failed read if there is no older value. */
export const Failed = ({ error, retry, what = "This could not be read" }) =>
  html`<div class="notice failed" role="alert">
    <p class="strong">${what}</p>
    <p>${error?.message ?? String(error)}</p>
    ${
      error?.requestId &&
      html`<p class="muted small" title=${error.code}>Request <code>${error.requestId}</code></p>`
    }
    ${retry && html`<button type="button" onClick=${retry}>Try again</button>`}
  </div>`;

/**
 * Part of a page. If the part raises an error, the rest of the page stays as it is. When the part
 * gets new children, it tries to draw them.
 */
export function Guarded({ what, children }) {
  const [error, reset] = useErrorBoundary(console.error);
  useLayoutEffect(() => void (error && reset()), [children]);
  return error ? html`<p class="problem">${what} cannot be shown.</p>` : children;
}

/** Notice that the value shown is old because the last read failed. */
export const Stale = ({ error, retry }) =>
  html`<div class="notice stale" role="status">
    <span>This page may be out of date. ${error?.message}</span>
    ${quietButton("Try again", retry)}
  </div>`;

/** Header of a page, with its title, its owner, and its actions. */
export const pageHead = (title, of, ...actions) =>
  html`<header class="page-head">
    <h1 tabindex="-1">${title}</h1>
    <span class="muted">${of}</span>
    ${actions.length > 0 && html`<span class="spacer"></span>`} ${actions}
  </header>`;

/** Notice of a read that has not returned a value yet. */
export const Placeholder = ({ of: read, what }) =>
  read.error
    ? html`<${Failed}
      error=${read.error}
      retry=${read.refresh}
      what=${`${what[0].toUpperCase()}${what.slice(1)} could not be read`} />`
    : html`<${Loading} what=${`Reading ${what}`} />`;
