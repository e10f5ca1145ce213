// Labelled fields of forms.

import { isTyped, useKey } from "../lib/keys.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "../lib/ui.js";
import { Icon } from "./icons.js";

/** A listener that gives a field's new value to `set`. */
const toValue = (set) => (event) => set(event.target.value);

/** A line to fill in. */
export const field = (label, value, set, attributes = {}) =>
  html`<label class="field">
    <span>${label}</span>
    <input type="text" value=${value} onInput=${toValue(set)} ...${attributes} />
  </label>`;

/** Lines to fill in. */
export const area = (label, value, set, attributes = { rows: 8, class: "mono" }) =>
  html`<label class="field">
    <span>${label}</span>
    <textarea spellcheck="false" value=${value} onInput=${toValue(set)} ...${attributes}></textarea>
  </label>`;

/** One of a few. */
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

/** A search field that waits for a pause in typing; `/` goes to it. */
export function SearchBox({
  value,
  onChange,
  placeholder = "Search type, error, tag, payload, key or id",
}) {
  const [text, setText] = useState(value);
  const input = useRef(null);
  const sent = useRef(value);
  useLayoutEffect(() => {
    if (value !== sent.current) setText((sent.current = value));
  }, [value]);
  useEffect(() => {
    if (text === sent.current) return undefined;
    const timer = setTimeout(() => onChange((sent.current = text)), 250);
    return () => clearTimeout(timer);
  }, [text]);
  useKey(
    (event) => event.key === "/" && !isTyped(event),
    () => input.current?.focus(),
  );
  return html`<label class="search">
    <span class="hidden">${placeholder}</span>
    <${Icon} name="search" />
    <input
      ref=${input}
      type="search"
      value=${text}
      placeholder=${placeholder}
      onInput=${(event) => setText(event.target.value)} />
  </label>`;
}
