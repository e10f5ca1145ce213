// JSON as text: payloads, results and errors may hold anything, and are never markup.

import { bytes, pretty } from "../lib/format.js";
import { html, useMemo, useState, quiet } from "../lib/ui.js";
import { copy } from "./copy.js";

const MOST = 20_000;
const TOKEN =
  /("(?:\\.|[^"\\])*")(\s*:)?|\b(true|false|null)\b|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)/g;

function coloured(text) {
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(TOKEN)) {
    if (found.index > at) parts.push(text.slice(at, found.index));
    const kind =
      found[2] !== undefined
        ? "key"
        : found[1] !== undefined
          ? "string"
          : found[3] !== undefined
            ? "word"
            : "number";
    const body = found[1] ?? found[0];
    parts.push(html`<span class=${`json-${kind}`}>${body}</span>`);
    if (found[2]) parts.push(found[2]);
    at = found.index + found[0].length;
  }
  parts.push(text.slice(at));
  return parts;
}

export function JsonView({ value, label }) {
  const [whole, setWhole] = useState(false);
  const text = useMemo(() => pretty(value), [value]);
  const cut = !whole && text.length > MOST;
  const shown = useMemo(
    () =>
      text.length > 200_000
        ? [text.slice(0, cut ? MOST : undefined)]
        : coloured(cut ? text.slice(0, MOST) : text),
    [text, cut],
  );
  return html`<div class="json">
    <div class="json-bar">
      <span class="muted small num">${bytes(new Blob([text]).size)}</span>
      ${quiet("Copy", () => copy(text, `Copied ${label.toLowerCase()}`))}
    </div>
    <pre tabindex="0" aria-label=${label}><code>${shown}${cut && "…"}</code></pre>
    ${cut && quiet(`Show all ${bytes(text.length)}`, () => setWhole(true))}
  </div>`;
}
