// The palette's commands and the help for shortcuts.

import { jobs as api, session } from "../api.js";
import { navigate } from "../lib/router.js";
import { shortId } from "../lib/format.js";
import { html, useEffect, useId, useMemo, useRef, useState } from "../lib/ui.js";
import { Dialog } from "./dialog.js";

const matches = (label, text) =>
  text
    .toLowerCase()
    .split(/\s+/)
    .every((word) => label.toLowerCase().includes(word));

/** Dialog that finds pages, actions and jobs. */
export function Commands({ commands, close }) {
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const [found, setFound] = useState({ text: "", jobs: [] });
  const listId = useId();
  const list = useRef(null);
  useEffect(() => {
    const query = text.trim();
    if (query.length < 3) return undefined;
    const controller = new AbortController();
    const timer = setTimeout(async () => {
      // if the search fails, the palette still finds pages
      const filter = { workspace_id: session.get().workspace?.id, search: query };
      const page = await api.page(filter, null, 6, controller.signal).catch(() => ({ jobs: [] }));
      if (!controller.signal.aborted) setFound({ text, jobs: page.jobs });
    }, 200);
    return () => {
      controller.abort();
      clearTimeout(timer);
    };
  }, [text]);
  const entries = useMemo(
    () => [
      ...commands.filter(({ label }) => matches(label, text)),
      // Enter must not open a result of an earlier text
      ...(found.text === text ? found.jobs : []).map((job) => ({
        label: `${job.job_type} ${shortId(job.id)}`,
        hint: job.status,
        run: () => navigate(`/jobs/${job.id}`),
      })),
    ],
    [commands, text, found],
  );
  const chosen = Math.min(at, entries.length - 1);
  const run = (entry) => {
    close();
    entry?.run();
  };
  useEffect(() => list.current?.children[chosen]?.scrollIntoView({ block: "nearest" }), [chosen]);
  const onKey = (event) => {
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
      onInput=${(event) => {
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
    ${entries.length === 0 && html`<p class="muted pad">No results.</p>`}
  <//>`;
}

const KEYS = [
  ["Ctrl K", "Go to a page, an action or a job"],
  ["/", "Search this list"],
  ["J K, ↑ ↓", "Move through the rows of a list"],
  ["Enter", "Open the row"],
  ["Space", "Select the row whose box has the focus"],
  ["Esc", "Close the dialog"],
];

/** Dialog that lists the keyboard shortcuts. */
export const Keys = ({ close }) =>
  html`<${Dialog} title="Keyboard shortcuts" onClose=${close}>
    <dl class="shortcuts">
      ${KEYS.map(
        ([key, action]) => html`<div key=${key}><dt><kbd>${key}</kbd></dt><dd>${action}</dd></div>`,
      )}
    </dl>
    <div class="actions">
      <button type="button" onClick=${close}>Close</button>
    </div>
  <//>`;
