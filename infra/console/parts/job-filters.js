// Filters of the list of jobs, which the page's address contains, and the inputs for them.

import { jobs, types } from "../api.js";
import { local, RANGES, serverNow, shortId } from "../lib/format.js";
import { useFetch } from "../lib/store.js";
import { html, isPhone, useId, useState } from "../lib/ui.js";
import { DialogForm } from "./dialog.js";
import { choice, field as input } from "./field.js";

/**
 * Return the start of a time range, rounded to the minute. If `since` is a time and not the name of
 * a range, return `since` unchanged.
 */
const rangeStart = (since) =>
  Object.hasOwn(RANGES, since)
    ? new Date(Math.floor(serverNow() / 60_000 - RANGES[since][0]) * 60_000).toISOString()
    : since;

/** Fields of the filter of the SQL function `list_jobs`, by the names in the page's address. */
const FILTERS = {
  type: "job_type",
  tag: "tag",
  queue: "queue",
  since: "since",
  until: "until",
  error: "error",
  payload: "payload",
  parent: "parent_id",
  key: "concurrency_key",
  worker: "worker_id",
};
export const FIELDS = ["state", "search", ...Object.values(FILTERS)];

/** States of the jobs that `attention` lists. */
export const IN_TROUBLE = ["queued", "retrying", "running", "failed"];

/** Convert the filter in the page's address to the filter of the SQL function `list_jobs`. */
export function queryOf({ state, since, until, payload, ...rest }) {
  const named = Object.entries(rest).filter(([, value]) => value);
  return {
    ...Object.fromEntries(named),
    // list jobs that the queue itself creates, such as webhook deliveries, only if a person asks
    // for them
    ...(!rest.job_type &&
      !rest.search &&
      !rest.parent_id &&
      !rest.worker_id &&
      state !== "attention" && { internal: false }),
    ...(state && { state: state === "attention" ? IN_TROUBLE : [state] }),
    ...(since && { created_after: rangeStart(since) }),
    ...(until && { created_before: until }),
    ...(payload && { payload: JSON.parse(payload) }),
  };
}

const CUSTOM = "custom";

/** Return the choice of a time range that a filter has. */
const rangeOf = ({ since = "", until }) =>
  until || (since && !Object.hasOwn(RANGES, since)) ? CUSTOM : since;

const TIMES = [
  ["", "Any time"],
  ...Object.entries(RANGES).map(([name, [, words]]) => [name, `Last ${words}`]),
  [CUSTOM, "Custom range…"],
];

/** Format a time in the reader's time zone, to the minute. */
const minuteOf = (at) => local(at).slice(0, 16);

/**
 * Describe each filter except the state as [field, name, value].
 */
export const describe = (filter) =>
  Object.entries({ search: "search", ...FILTERS }).flatMap(([name, field]) => {
    const value = filter[field];
    if (!value) return [];
    if (field === "since" && Object.hasOwn(RANGES, value))
      return [[field, "created", `last ${RANGES[value][1]}`]];
    if (field === "since" || field === "until") return [[field, name, minuteOf(value)]];
    return [[field, name, field === "parent_id" ? shortId(value) : value]];
  });

/**
 * Lets a person choose a job type, a range of the time of creation, and other filters. The types of
 * all jobs are read when the pointer or the focus reaches the inputs, because most visits do not
 * need them.
 */
export function Choices({ workspaceId, rows, filter, onFilter }) {
  const [isAsked, setIsAsked] = useState(false);
  const [opened, setOpened] = useState(null); // the time range that the dialog shows first
  const ask = () => setIsAsked(true);
  const { value: known } = useFetch(
    async (signal) => (isAsked ? types.list(workspaceId, signal) : []),
    [workspaceId, isAsked],
  );
  const all = [...(known ?? []).filter(({ internal }) => !internal), ...rows];
  const { job_type: type = "" } = filter;
  const range = rangeOf(filter);
  const select = (label, value, options, choose) =>
    html`<select
      aria-label=${label}
      value=${value}
      onPointerEnter=${ask}
      onFocus=${ask}
      onChange=${({ target }) => {
        const { value: next } = target;
        target.value = value; // until the address has changed
        choose(next);
      }}>
      ${options.map(
        ([name, words]) =>
          html`<option key=${name} value=${name} selected=${name === value}>${words}</option>`,
      )}
    </select>`;
  const names = new Set([...all.map((one) => one.job_type), type].filter(Boolean));
  const every = [...names].sort().map((name) => [name, name]);
  return html`
    ${select("Type", type, [["", "All types"], ...every], (name) => onFilter({ job_type: name }))}
    ${select("Created", range, TIMES, (name) =>
      name === CUSTOM ? setOpened(CUSTOM) : onFilter({ since: name, until: "" }),
    )}
    <button type="button" class="filters" onClick=${() => setOpened(range)}>Filters</button>
    ${
      opened !== null &&
      html`<${FilterDialog}
        workspaceId=${workspaceId}
        first=${opened}
        filter=${filter}
        onFilter=${onFilter}
        onClose=${() => setOpened(null)} />`
    }
  `;
}

/** Filters of the dialog that are texts, with their labels. */
const TEXTS = {
  queue: "Queue",
  worker_id: "Worker",
  tag: "Tag",
  concurrency_key: "Concurrency key",
  error: "Error contains",
};

/** Return the ISO time of a time in the reader's time zone, or an empty text. */
const isoOf = (text) => (text ? new Date(text).toISOString() : "");

/**
 * Dialog with the filters for which the list has no room. It suggests the values of the newest jobs.
 * On a phone, it has the time range too.
 */
function FilterDialog({ workspaceId, first, filter, onFilter, onClose }) {
  const [range, setRange] = useState(first);
  const [texts, setTexts] = useState(filter);
  const asInput = (at) => (at ? minuteOf(at).replace(" ", "T") : "");
  const [from, setFrom] = useState(asInput(rangeStart(filter.since)));
  const [to, setTo] = useState(asInput(filter.until));
  const listId = useId();
  const columns = ["queue", "worker_id", "tags", "concurrency_key", "error"];
  const { value: page } = useFetch(
    (signal) => jobs.page({ workspace_id: workspaceId, internal: false }, { columns }, 100, signal),
    [workspaceId],
  );
  const suggested = (name) => [
    ...new Set(page?.jobs.flatMap((job) => job[name === "tag" ? "tags" : name] ?? [])),
  ];
  const run = async () => {
    const isCustom = range === CUSTOM;
    onFilter({
      ...Object.fromEntries(Object.keys(TEXTS).map((name) => [name, texts[name]?.trim()])),
      since: isCustom ? isoOf(from) : range,
      until: isCustom ? isoOf(to) : "",
    });
    onClose();
  };
  const time = { type: "datetime-local" };
  return html`<${DialogForm} title="Filter jobs" action="Apply" run=${run} onClose=${onClose} wide>
    ${isPhone() && choice("Created", range, setRange, TIMES)}
    ${
      range === CUSTOM &&
      html`<div class="field-grid">
        ${input("From (your time zone)", from, setFrom, { ...time, autofocus: true })}
        ${input("Until", to, setTo, time)}
      </div>`
    }
    <div class="field-grid">
      ${Object.entries(TEXTS).map(([name, label]) =>
        input(label, texts[name] ?? "", (text) => setTexts((now) => ({ ...now, [name]: text })), {
          autocomplete: "off",
          spellcheck: "false",
          placeholder: "Any",
          list: `${listId}-${name}`,
        }),
      )}
    </div>
    ${Object.keys(TEXTS).map(
      (name) =>
        html`<datalist id=${`${listId}-${name}`}>
          ${suggested(name).map((value) => html`<option key=${value} value=${value}></option>`)}
        </datalist>`,
    )}
  <//>`;
}

/**
 * Shows each filter for which `Choices` has no select, with a button that removes the filter. A
 * phone has no select of time ranges.
 */
export function Chips({ filter, onFilter }) {
  const shown = describe(filter).filter(
    ([field]) =>
      !["search", "job_type"].includes(field) &&
      (field !== "since" || isPhone() || rangeOf(filter) === CUSTOM),
  );
  if (shown.length === 0) return null;
  return html`<div class="tags">
    ${shown.map(
      ([field, name, value]) =>
        html`<button
          type="button"
          class="chip"
          key=${name}
          onClick=${() => onFilter({ [field]: "" })}
          aria-label=${`Remove filter ${name} ${value}`}>
          ${name}: ${value} ×
        </button>`,
    )}
  </div>`;
}
