// What a list of jobs is narrowed by, beyond its state; and views, which are addresses with a name.

import { place, setQuery } from "../lib/router.js";
import { createStore, useStore } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { Dialog } from "./dialog.js";
import { notify } from "./toasts.js";

/**
 * @typedef {{[name in "state" | "job_type" | "queue" | "parent_id" | "tag" | "version" | "worker_id" | "error" |
 *   "payload" | "min_run_ms" | "since" | "search" | "sort" | "order"]?: string}} Filter As the address has it.
 */
/** @typedef {(changes: Filter) => void} OnFilter Empty values remove a filter. */

/**
 * Ranges of creation by the word in the address.
 *
 * @type {Record<string, string>}
 */
export const SINCE = {
  "15m": "15 minutes",
  "1h": "1 hour",
  "6h": "6 hours",
  "24h": "24 hours",
  "7d": "7 days",
  "30d": "30 days",
};
/** @type {Record<string, number>} */
const MINUTES = { "15m": 15, "1h": 60, "6h": 360, "24h": 1440, "7d": 10_080, "30d": 43_200 };

/** The instant a range begins, to the minute, so that it is the same for a while; an instant is itself. */
export function beginOf(/** @type {string} */ since, now = Date.now()) {
  if (!Object.hasOwn(MINUTES, since)) return since;
  return new Date(Math.floor(now / 60_000 - MINUTES[since]) * 60_000).toISOString();
}

const KEY = "minutehand.views";
/** @typedef {[word: string, query: string]} View */

/** @type {View[]} */
const BUILT_IN = [
  ["Failed in the last day", "state=failed&since=24h"],
  ["Ran longer than a minute", "min_run_ms=60000&sort=run_ms&order=desc"],
  ["Runs next", "sort=next_run_at&order=asc"],
  ["Retrying", "state=retrying&sort=next_run_at&order=asc"],
];

/** @returns {View[]} */
const read = () => {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(kept) ? kept.filter((one) => one.length === 2) : [];
  } catch {
    return []; // written by something else
  }
};
const views = createStore(read());
views.subscribe((list) => localStorage.setItem(KEY, JSON.stringify(list)));

/** @type {Array<[name: keyof Filter, label: string, attributes: object]>} */
const FIELDS = [
  ["job_type", "Type", { class: "mono" }],
  ["tag", "Tag", {}],
  ["error", "Error contains", {}],
  ["version", "Version of the code", {}],
  ["worker_id", "Worker", { class: "mono" }],
  ["queue", "Queue", {}],
  ["payload", "Payload has, JSON", { class: "mono", placeholder: '{"customer": 7}' }],
  ["min_run_ms", "Ran at least, ms", { type: "number", min: "0", step: "1" }],
];

/** @param {{filter: Filter, onFilter: OnFilter}} props */
export function Filters({ filter, onFilter }) {
  const [open, setOpen] = useState(false);
  return html`<button type="button" aria-haspopup="dialog" onClick=${() => setOpen(true)}>Filters</button>
    ${open && html`<${FilterDialog} filter=${filter} onFilter=${onFilter} onClose=${() => setOpen(false)} />`}`;
}

/** @param {{filter: Filter, onFilter: OnFilter, onClose: () => void}} props */
function FilterDialog({ filter, onFilter, onClose }) {
  const [draft, setDraft] = useState(
    Object.fromEntries(
      [...FIELDS.map(([name]) => name), "since"].map((name) => [
        name,
        filter[/** @type {keyof Filter} */ (name)] ?? "",
      ]),
    ),
  );
  const [problem, setProblem] = useState(/** @type {string | null} */ (null));
  const kept = useStore(views);
  const [name, setName] = useState("");
  const apply = (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    try {
      if (draft.payload && typeof JSON.parse(draft.payload) !== "object")
        throw new Error("it must be an object");
    } catch (error) {
      setProblem(`The payload is not JSON: ${error.message}`);
      return;
    }
    onFilter(draft);
    onClose();
  };
  const show = (/** @type {string} */ query) => {
    const cleared = Object.fromEntries([...place.get().query.keys()].map((key) => [key, ""]));
    setQuery({ ...cleared, ...Object.fromEntries(new URLSearchParams(query)) });
    onClose();
  };
  const keep = () => {
    views.set([
      ...kept.filter(([known]) => known !== name.trim()),
      [name.trim(), place.get().query.toString()],
    ]);
    notify(`The view ${name.trim()} is kept in this browser; its address can be shared`);
    setName("");
  };
  return html`<${Dialog} title="Filters" onClose=${onClose} wide>
    <form class="stack" onSubmit=${apply}>
      <div class="field-grid">
        <label class="field"><span>Created within</span><select value=${draft.since} autofocus onChange=${(/** @type {{target: HTMLSelectElement}} */ event) => setDraft({ ...draft, since: event.target.value })}><option value="">any time</option>${Object.entries(SINCE).map(([word, long]) => html`<option value=${word} key=${word}>the last ${long}</option>`)}</select></label>
        ${FIELDS.map(([field, label, more]) => html`<label class="field" key=${field}><span>${label}</span><input type="text" autocomplete="off" spellcheck="false" value=${draft[field]} onInput=${(/** @type {{target: HTMLInputElement}} */ event) => setDraft({ ...draft, [field]: event.target.value })} ...${more} /></label>`)}
      </div>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <div class="actions"><button type="button" onClick=${onClose}>Close</button><button type="submit" class="primary">Apply</button></div>
    </form>
    <section aria-label="Views"><h3>Views</h3>
      <ul class="views">${[...BUILT_IN, ...kept].map(
        (
          [word, query],
          index,
        ) => html`<li key=${word}><button type="button" class="quiet" onClick=${() => show(query)}>${word}</button>
        ${index >= BUILT_IN.length && html`<button type="button" class="quiet" aria-label=${`Forget the view ${word}`} onClick=${() => views.set(kept.filter(([known]) => known !== word))}>Forget</button>`}</li>`,
      )}</ul>
      <form class="bar" onSubmit=${(/** @type {SubmitEvent} */ event) => {
        event.preventDefault();
        if (name.trim()) keep();
      }}><label class="field-inline grow"><span class="hidden">Name of a view</span><input type="text" maxlength="60" placeholder="Keep what is shown now as…" value=${name} onInput=${(/** @type {{target: HTMLInputElement}} */ event) => setName(event.target.value)} /></label>
        <button type="submit" disabled=${!name.trim()}>Keep</button></form>
    </section>
  <//>`;
}
