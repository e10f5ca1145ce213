// Text input that searches a list.

import { isTyping, useKey } from "../lib/keys.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "../lib/ui.js";
import { Icon } from "./icons.js";

/**
 * Search input. A search starts when the person pauses typing. The key `/` moves the keyboard focus
 * to the search input.
 */
export function SearchBox({ value, onChange, placeholder = "Search type, error, payload or id" }) {
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
    (event) => event.key === "/" && !isTyping(event),
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
