// The head of a page: its title, whose it is, and what can be done there.

import { setQuery } from "../lib/router.js";
import { html } from "../lib/ui.js";
import { quiet } from "./button.js";
import { check } from "./field.js";

/** @param {string} title @param {string} of @param {any[]} actions At the other end. */
export const pageHead = (title, of, ...actions) =>
  html`<header class="page-head">
    <h1 tabindex="-1">${title}</h1>
    <span class="muted">${of}</span>
    ${actions.length > 0 && html`<span class="spacer"></span>`} ${actions}
  </header>`;

/**
 * Buttons that turn a list's pages, by their words: each while there is somewhere to turn to.
 *
 * @param {Record<string, (() => void) | false | null | undefined>} turns
 */
export const pager = (turns) =>
  html`<div class="bar">
    ${Object.entries(turns).map(([words, turn]) => turn && quiet(words, turn, { key: words }))}
  </div>`;

/** A button that opens a dialog. @param {string} words @param {() => void} onClick */
export const opener = (words, onClick) =>
  html`<button type="button" onClick=${onClick}>${words}</button>`;

/** The switch that shows the engine's own types as well. @param {boolean} isInternal */
export const internalSwitch = (isInternal) =>
  check("Internal types", isInternal, (isOn) => setQuery({ internal: isOn ? "1" : "" }));
