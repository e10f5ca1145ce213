// The states every view has besides being loaded: loading, empty, failed, stale.

import { html, quietButton } from "../lib/ui.js";

/** Something is being read for the first time. */
export const Loading = ({ what = "Loading" }) =>
  html`<div class="notice loading" role="status">
    <span class="spinner" aria-hidden="true"></span>
    ${what}…
  </div>`;

/** There is nothing; say why that may be and what to do. */
export const Empty = ({ title, children }) =>
  html`<div class="notice empty">
    <p class="strong">${title}</p>
    ${children && html`<div>${children}</div>`}
  </div>`;

/** Reading failed and there is nothing older to show. */
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

/** What is shown is old, and why. */
export const Stale = ({ error, retry }) =>
  html`<div class="notice stale" role="status">
    <span>Shown as last read. ${error?.message}</span>
    ${quietButton("Try again", retry)}
  </div>`;

/** The head of a page: its title, whose it is, and what can be done there. */
export const pageHead = (title, of, ...actions) =>
  html`<header class="page-head">
    <h1 tabindex="-1">${title}</h1>
    <span class="muted">${of}</span>
    ${actions.length > 0 && html`<span class="spacer"></span>`} ${actions}
  </header>`;

/** Nothing is shown yet: it is being read, or could not be. */
export const Placeholder = ({ of: read, what }) =>
  read.error
    ? html`<${Failed}
      error=${read.error}
      retry=${read.refresh}
      what=${`${what[0].toUpperCase()}${what.slice(1)} could not be read`} />`
    : html`<${Loading} what=${`Reading ${what}`} />`;
