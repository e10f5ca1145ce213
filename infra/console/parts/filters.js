// What a list of jobs is narrowed by, beyond its state; and views, which are addresses with a name.

import { types } from "../api.js";
import { duration, shortId } from "../lib/format.js";
import { place, setQuery } from "../lib/router.js";
import { createStore, useStore } from "../lib/store.js";
import { html, useId, useState } from "../lib/ui.js";
import { Icon } from "./icons.js";
import { notify } from "./toasts.js";

/** @import { ListedJob } from "../lib/routes.js" */

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

/**
 * @typedef {{field: keyof Filter, say?: (value: string) => string, known?: (rows: ListedJob[], types: string[]) => string[],
 *   problem?: (value: string) => string | false}} Kind `known`: values to suggest; `problem`: why a value is none.
 */

const isObject = (/** @type {string} */ text) => {
  try {
    return JSON.parse(text)?.constructor === Object;
  } catch {
    return false;
  }
};

/**
 * Filters by the word that people type.
 *
 * @type {Record<string, Kind>}
 */
const KINDS = {
  type: { field: "job_type", known: (_, names) => names },
  tag: { field: "tag", known: (rows) => rows.flatMap((row) => row.tags ?? []) },
  queue: { field: "queue", known: (rows) => rows.map((row) => row.queue ?? "default") },
  since: {
    field: "since",
    say: (word) => SINCE[word] ?? word,
    known: () => Object.keys(SINCE),
    problem: (word) =>
      !Object.hasOwn(SINCE, word) &&
      Number.isNaN(Date.parse(word)) &&
      "since takes 15m, 1h, … or a time",
  },
  error: { field: "error" },
  version: { field: "version" },
  worker: { field: "worker_id", known: (rows) => rows.map((row) => row.worker_id ?? "") },
  "ran over": {
    field: "min_run_ms",
    say: (ms) => duration(Number(ms)),
    known: () => ["1000", "10000", "60000"],
    problem: (ms) => !(Number(ms) >= 0) && "ran over takes milliseconds",
  },
  payload: {
    field: "payload",
    known: () => ['{"customer": 7}'],
    problem: (text) => !isObject(text) && "payload takes a JSON object of fields and values",
  },
  parent: { field: "parent_id", say: shortId },
};

/**
 * The filters that are on, each removed by a click, and a field that adds one and suggests its values.
 *
 * @param {{filter: Filter, onFilter: OnFilter, rows: ListedJob[], workspaceId: string}} props
 */
export function Filters({ filter, onFilter, rows, workspaceId }) {
  const [text, setText] = useState("");
  const [problem, setProblem] = useState(/** @type {string | false} */ (false));
  const [names, setNames] = useState(/** @type {string[] | null} */ (null));
  const listId = useId();
  // asked for when someone is about to choose; without an answer the values of the list are suggested
  const learn = () => {
    if (names) return;
    setNames([]);
    types.list(workspaceId, AbortSignal.timeout(20_000)).then(
      (found) => setNames(found.types.map((/** @type {{job_type: string}} */ one) => one.job_type)),
      () => setNames(null),
    );
  };
  const words = Object.keys(KINDS);
  const word = words.find((one) => text.startsWith(`${one}:`));
  const known = word ? (KINDS[word].known?.(rows, names ?? []) ?? []) : [];
  const suggested = word
    ? [...new Set(known)].filter(Boolean).map((value) => `${word}:${value}`)
    : words.map((one) => `${one}:`);
  const add = (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const value = word && text.slice(word.length + 1).trim();
    const wrong =
      !word || !value
        ? "Write what and its value, as type:invoices.send"
        : KINDS[word].problem?.(value);
    setProblem(wrong ?? false);
    if (wrong) return;
    onFilter({ [KINDS[/** @type {string} */ (word)].field]: value });
    setText("");
  };
  return html`
    ${Object.entries(KINDS).map(([name, { field, say }]) => {
      const value = filter[field];
      return (
        value &&
        html`<button
          type="button"
          class="chip"
          key=${name}
          onClick=${() => onFilter({ [field]: "" })}
          aria-label=${`Remove filter ${name} ${value}`}>
          ${name}: ${say?.(value) ?? value} <${Icon} name="cross" />
        </button>`
      );
    })}
    <form class="add-filter" onSubmit=${add}>
      <label>
        <span class="hidden">Add a filter</span>
        <input
          type="text"
          list=${listId}
          autocomplete="off"
          spellcheck="false"
          placeholder="Add a filter"
          value=${text}
          aria-invalid=${Boolean(problem)}
          onFocus=${learn}
          onInput=${(/** @type {{target: HTMLInputElement}} */ event) => setText(event.target.value)} />
      </label>
      <datalist id=${listId}>
        ${suggested.map((one) => html`<option value=${one} key=${one} />`)}
      </datalist>
    </form>
    ${problem && html`<span class="problem small" role="alert">${problem}</span>`}
    <${Views} />
  `;
}

/** Views to choose from, and to save what is shown as one. */
function Views() {
  const kept = useStore(views);
  const [name, setName] = useState("");
  const show = (
    /** @type {MouseEvent & {currentTarget: HTMLElement}} */ event,
    /** @type {string} */ query,
  ) => {
    const cleared = Object.fromEntries([...place.get().query.keys()].map((key) => [key, ""]));
    setQuery({ ...cleared, ...Object.fromEntries(new URLSearchParams(query)) });
    event.currentTarget.closest("details")?.removeAttribute("open");
  };
  const save = (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const word = name.trim();
    if (!word) return;
    views.set([...kept.filter(([known]) => known !== word), [word, place.get().query.toString()]]);
    notify(`The view ${word} is saved in this browser; its address can be shared`);
    setName("");
  };
  const close = (
    /** @type {KeyboardEvent & FocusEvent & {currentTarget: HTMLElement}} */ event,
  ) => {
    const isLeft =
      event.relatedTarget &&
      !event.currentTarget.contains(/** @type {Node} */ (event.relatedTarget));
    if (event.key === "Escape" || isLeft) event.currentTarget.removeAttribute("open");
  };
  return html`<details class="menu" onKeyDown=${close} onFocusOut=${close}>
    <summary>Views</summary>
    <div class="menu-box stack">
      <ul>
        ${[...BUILT_IN, ...kept].map(
          ([word, query], index) => html`<li key=${word} class="bar">
            <button
              type="button"
              class="quiet grow"
              onClick=${(/** @type {any} */ event) => show(event, query)}>
              ${word}
            </button>
            ${
              index >= BUILT_IN.length &&
              html`<button
                type="button"
                class="quiet"
                aria-label=${`Forget the view ${word}`}
                onClick=${() => views.set(kept.filter(([known]) => known !== word))}>
                <${Icon} name="cross" />
              </button>`
            }
          </li>`,
        )}
      </ul>
      <form class="bar" onSubmit=${save}>
        <label class="grow">
          <span class="hidden">Name of a view</span>
          <input
            type="text"
            maxlength="60"
            placeholder="Save this view as…"
            value=${name}
            onInput=${(/** @type {{target: HTMLInputElement}} */ event) => setName(event.target.value)} />
        </label>
        <button type="submit" disabled=${!name.trim()}>Save</button>
      </form>
    </div>
  </details>`;
}
