// Notices for views that are loading, empty, failed or out of date.

import { capitalize } from "../lib/format.js";
import { html, quietButton, useErrorBoundary, useLayoutEffect } from "../lib/ui.js";
import { When } from "./when.js";

/** Notice that is shown while the first read is in flight. */
export const Loading = ({ what = "Loading" }) =>
  html`<div class="notice loading" role="status">
    <span class="spinner" aria-hidden="true"></span>
    ${what}…
  </div>`;

/**
 * Notice for an empty list. Its text says why the list is empty, and what the person can do next.
 */
export const Empty = ({ title, children }) =>
  children
    ? html`<div class="notice empty">
      <p class="strong">${title}</p>
      <div>${children}</div>
    </div>`
    : html`<p class="muted">${title}</p>`;

/** Notice for a failed read, if no earlier read has succeeded. */
export const Failed = ({ error, retry, what = "This could not be read" }) =>
  html`<div class="notice failed" role="alert">
    <p class="strong">${what}</p>
    <p>${error?.message ?? String(error)}</p>
    ${
      error?.status === 404 &&
      error.isRefusal === false &&
      html`<p>A function was not found in the database: run <code>minutehand doctor</code>.</p>`
    }
    ${
      (error?.status === 0 || error?.status >= 500) &&
      html`<p><code>minutehand doctor</code> shows why.</p>`
    }
    ${
      error?.requestId &&
      html`<p class="muted small" title=${error.code}>Request <code>${error.requestId}</code></p>`
    }
    ${retry && html`<button type="button" onClick=${retry}>Try again</button>`}
  </div>`;

/**
 * Part of a page. If rendering the part throws an error, the rest of the page stays visible. After
 * an error, the part is rendered again when it gets new children.
 */
export function Guarded({ what, children }) {
  const [error, reset] = useErrorBoundary(console.error);
  useLayoutEffect(() => void (error && reset()), [children]);
  return error ? html`<p class="problem">${what} cannot be shown.</p>` : children;
}

/** Shows a notice that the page has an old value, because the last read failed. */
export const Stale = ({ error, retry }) =>
  html`<div class="notice stale" role="status">
    <span>This page may be out of date. ${error?.message}</span>
    ${quietButton("Try again", retry)}
  </div>`;

/** The notice `Stale` if the read's value is old. */
export const stale = (read) =>
  read.isStale && html`<${Stale} error=${read.error} retry=${read.refresh} />`;

/** Notice that the statistics do not have the jobs that ended after the time `at`. */
export const lateNote = (at) =>
  at &&
  html`<p class="notice stale"><span>Ended jobs are counted until <${When} at=${at} /></span></p>`;

/**
 * Header of a page with the page's title, the workspace or owner (`of`), and the action buttons.
 */
export const pageHead = (title, of, ...actions) =>
  html`<header class="page-head">
    <h1 tabindex="-1">${title}</h1>
    <span class="muted">${of}</span>
    ${actions.length > 0 && html`<span class="spacer"></span>`} ${actions}
  </header>`;

/** Header of the page of one object, with links to the pages above it (`crumb`). */
export const objectHead = (crumb, title, badge, ...actions) =>
  html`<header class="page-head">
    <div class="grow">
      <p class="crumb">${crumb}</p>
      <div class="titled">
        <h1 tabindex="-1">${title}</h1>
        ${badge}
      </div>
    </div>
    ${actions}
  </header>`;

/**
 * Notice in place of a value that is not read yet, which says that the read is in flight or failed.
 */
export const Placeholder = ({ of: read, what }) =>
  read.error
    ? html`<${Failed}
      error=${read.error}
      retry=${read.refresh}
      what=${`${capitalize(what)} could not be read`} />`
    : html`<${Loading} what=${`Reading ${what}`} />`;
