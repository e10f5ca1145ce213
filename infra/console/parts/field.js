// Form fields with their labels.

import { html } from "../lib/ui.js";

/** Return an event listener that calls `set` with the new value of a form field. */
const toValue = (set) => (event) => set(event.target.value);

/** Text input for a single line, with a label. */
export const field = (label, value, set, attributes = {}) =>
  html`<label class="field">
    <span>${label}</span>
    <input type="text" value=${value} onInput=${toValue(set)} ...${attributes} />
  </label>`;

/** Text input for several lines, with a label. */
export const area = (label, value, set, attributes = { rows: 8, class: "mono" }) =>
  html`<label class="field">
    <span>${label}</span>
    <textarea spellcheck="false" value=${value} onInput=${toValue(set)} ...${attributes}></textarea>
  </label>`;

/** Select box with options. */
export const choice = (label, value, set, options, className = "field", hidden = "") =>
  html`<label class=${className}>
    <span class=${hidden}>${label}</span>
    <select value=${value} onChange=${toValue(set)}>
      ${[...options].map(
        ([name, words]) => html`<option value=${name} key=${name}>
          ${words}
        </option>`,
      )}
    </select>
  </label>`;
