// Labelled fields of forms.

import { html } from "../lib/ui.js";

/** A listener that gives a field's new value to `set`. */
export const toValue =
  (/** @type {(value: any) => void} */ set) => (/** @type {{target: {value: any}}} */ event) =>
    set(event.target.value);

/**
 * A line to fill in.
 *
 * @param {string} label
 * @param {string} value
 * @param {(value: string) => void} set
 * @param {object} [attributes] More of the `<input>`.
 */
export const field = (label, value, set, attributes = {}) =>
  html`<label class="field">
    <span>${label}</span>
    <input type="text" value=${value} onInput=${toValue(set)} ...${attributes} />
  </label>`;

/** A box to tick. @param {string} label @param {boolean} isOn @param {(isOn: boolean) => void} set */
export const check = (label, isOn, set) =>
  html`<label class="check" key=${label}>
    <input
      type="checkbox"
      checked=${isOn}
      onChange=${(/** @type {{target: HTMLInputElement}} */ event) => set(event.target.checked)} /> ${label}
  </label>`;

/**
 * One of a few.
 *
 * @param {string} label
 * @param {string} value
 * @param {(value: any) => void} set
 * @param {Iterable<[value: string, words: string]>} options
 * @param {string} [className] `field-inline` in a bar.
 * @param {string} [hidden] `hidden`: the label is for screen readers alone.
 */
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
