// Buttons of few words.

import { html } from "../lib/ui.js";

/** @param {any} words @param {(event: any) => unknown} onClick @param {Record<string, unknown>} [more] Attributes. */
export const quiet = (words, onClick, more) =>
  html`<button type="button" class="quiet" onClick=${onClick} ...${more}>${words}</button>`;
