// Components that show and export values: ids that a click copies, formatted JSON, and downloads.

import { bytes, pretty, shortId } from "../lib/format.js";
import { html, quietButton, useMemo, useState } from "../lib/ui.js";
import { Icon } from "./icons.js";
import { notify, notifyFailure } from "./toasts.js";

/** Copy a text to the clipboard, and show a message that the text was copied. */
export async function copy(text, what = "Copied") {
  try {
    await navigator.clipboard.writeText(text);
    notify(what);
  } catch (error) {
    notifyFailure("Could not copy", error);
  }
}

const CopyButton = ({ text, what, className = "copy mono", children }) =>
  html`<button
    type="button"
    class=${className}
    title=${`Copy ${what} ${text}`}
    onClick=${() => copy(text, `Copied ${what}`)}>
    ${children}
    <${Icon} name="copy" />
    <span class="hidden">Copy ${what}</span>
  </button>`;

/** Shows a button with the end of an id, which copies the complete id when a person clicks it. */
export const CopyId = ({ id, whole = false, what = "id" }) =>
  html`<${CopyButton} text=${id} what=${what}>${whole ? id : shortId(id)}<//>`;

/** Shows a button with a shell command, which copies the command when a person clicks it. */
export const Command = ({ text }) =>
  html`<${CopyButton} text=${text} what="the command" className="copy command mono">${text}<//>`;

/** Let the browser download a file whose content the page has created. */
export function download(name, content, type = "text/plain;charset=utf-8") {
  const blob = content instanceof Blob ? content : new Blob([content], { type });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const MAX_CHARACTERS = 20_000;

export function JsonView({ value, label }) {
  const [whole, setWhole] = useState(false);
  const text = useMemo(() => pretty(value), [value]);
  const cut = !whole && text.length > MAX_CHARACTERS;
  const shown = cut ? `${text.slice(0, MAX_CHARACTERS)}…` : text;
  return html`<div class="json">
    <div class="json-bar">
      <span class="muted small num">${bytes(new Blob([text]).size)}</span>
      ${quietButton("Copy", () => copy(text, `Copied ${label.toLowerCase()}`))}
    </div>
    <pre tabindex="0" aria-label=${label}><code>${shown}</code></pre>
    ${cut && quietButton(`Show all ${bytes(text.length)}`, () => setWhole(true))}
  </div>`;
}
