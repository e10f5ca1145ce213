// The keyboard palette: Ctrl-K or Cmd-K, type, Enter. Goes anywhere, does the common things.

import { jobs as api, session } from "../api.js";
import { useKey } from "../lib/keys.js";
import { navigate } from "../lib/router.js";
import { shortId } from "../lib/format.js";
import { createStore, useStore } from "../lib/store.js";
import { html, useEffect, useId, useMemo, useRef, useState } from "../lib/ui.js";
import { Dialog } from "./dialog.js";

/** @import { ListedJob } from "../lib/routes.js" */
/** @typedef {{label: string, hint?: string, run: () => void}} Command */

const isOpen = createStore(false);
export const openPalette = () => isOpen.set(true);

/**
 * Where the palette appears.
 *
 * @param {{commands: Command[]}} props
 */
export function Palette({ commands }) {
  const open = useStore(isOpen);
  useKey(
    (event) =>
      event.key.toLowerCase() === "k" &&
      (event.ctrlKey || event.metaKey) &&
      !event.shiftKey &&
      !event.altKey,
    () => isOpen.set((now) => !now),
  );
  return open ? html`<${Open} commands=${commands} />` : null;
}

const matches = (/** @type {string} */ label, /** @type {string} */ text) =>
  text
    .toLowerCase()
    .split(/\s+/)
    .every((word) => label.toLowerCase().includes(word));

/** @param {{commands: Command[]}} props */
function Open({ commands }) {
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const [found, setFound] = useState({ text: "", jobs: /** @type {ListedJob[]} */ ([]) });
  const listId = useId();
  const list = useRef(/** @type {HTMLUListElement | null} */ (null));
  useEffect(() => {
    const wanted = text.trim();
    if (wanted.length < 3) return undefined;
    const controller = new AbortController();
    const timer = setTimeout(async () => {
      // a palette without jobs still goes to pages
      const page = await api
        .list({
          query: { workspace_id: session.get().workspace?.id, search: wanted, limit: 6 },
          signal: controller.signal,
        })
        .catch(() => ({ jobs: [] }));
      if (!controller.signal.aborted) setFound({ text, jobs: page.jobs });
    }, 200);
    return () => {
      controller.abort();
      clearTimeout(timer);
    };
  }, [text]);
  /** @type {Command[]} */
  const entries = useMemo(
    () => [
      ...commands.filter(({ label }) => matches(label, text)),
      // Enter must never open what an earlier text had found
      ...(found.text === text ? found.jobs : []).map((job) => ({
        label: `${job.job_type} ${shortId(job.id)}`,
        hint: job.status,
        run: () => navigate(`/jobs/${job.id}`),
      })),
    ],
    [commands, text, found],
  );
  const chosen = Math.min(at, entries.length - 1);
  const close = () => isOpen.set(false);
  const run = (/** @type {Command | undefined} */ entry) => {
    close();
    entry?.run();
  };
  useEffect(() => list.current?.children[chosen]?.scrollIntoView({ block: "nearest" }), [chosen]);
  const onKey = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "ArrowDown") setAt(Math.min(entries.length - 1, chosen + 1));
    else if (event.key === "ArrowUp") setAt(Math.max(0, chosen - 1));
    else if (event.key === "Enter") run(entries[chosen]);
    else return;
    event.preventDefault();
  };
  return html`<${Dialog} title="Go to" onClose=${close}>
    <input
      class="palette-input"
      type="text"
      role="combobox"
      aria-expanded=${String(entries.length > 0)}
      aria-controls=${entries.length ? listId : undefined}
      aria-autocomplete="list"
      aria-activedescendant=${entries.length ? `${listId}-${chosen}` : undefined}
      aria-label="Type a page, an action, or a job"
      autofocus
      autocomplete="off"
      placeholder="A page, an action, or a job"
      value=${text}
      onInput=${(/** @type {{target: HTMLInputElement}} */ event) => {
        setText(event.target.value);
        setAt(0);
      }}
      onKeyDown=${onKey} />
    ${
      entries.length > 0 &&
      html`<ul class="palette-list" role="listbox" id=${listId} aria-label="Results" ref=${list}>
        ${entries.map(
          (entry, index) => html`<li
            key=${`${entry.label}${index}`}
            id=${`${listId}-${index}`}
            role="option"
            aria-selected=${index === chosen}
            onMouseMove=${() => setAt(index)}
            onClick=${() => run(entry)}>
            <span>${entry.label}</span>
            ${entry.hint && html`<span class="muted small">${entry.hint}</span>`}
          </li>`,
        )}
      </ul>`
    }
    ${entries.length === 0 && html`<p class="muted pad">Nothing by that name.</p>`}
  <//>`;
}
