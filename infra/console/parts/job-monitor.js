// JobMonitor: a workspace's jobs, live: groups with counts, filters, search, selection, actions.

import { supabase } from "../api.js";
import { density, nextDensity, ROWS } from "../lib/density.js";
import { counted, duration, errorLine, number, percentage, shortId } from "../lib/format.js";
import { useJobList } from "../lib/job-list.js";
import { ENDED } from "../lib/jobs/sequence.js";
import { makeUseJobStatus } from "../lib/jobs/use-job-status.js";
import { isTyped, useKey } from "../lib/keys.js";
import { NAMES, nextRunOf, STATES, stateOfJob, statusOf } from "../lib/states.js";
import { useStore } from "../lib/store.js";
import {
  classes,
  hooks,
  html,
  useEffect,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from "../lib/ui.js";
import { useVirtual } from "../lib/virtual.js";
import { Freshness, StateBadge } from "./badge.js";
import { quiet } from "./button.js";
import { beginOf, Filters } from "./filters.js";
import { Icon } from "./icons.js";
import { JobProgress } from "./job-progress.js";
import { lazy } from "./lazy.js";
import { Empty, Failed, Loading, Stale } from "./states-of-view.js";
import { Took, When } from "./when.js";

/** @import { JobList } from "../lib/job-list.js" */
/** @import { ListedJob } from "../lib/routes.js" */
/** @import { Filter, OnFilter } from "./filters.js" */
/** @typedef {ListedJob & {run_ms?: number, workspace_name?: string | null}} Row `workspace_name` where all are shown. */
/** @typedef {{states: Record<string, number>, at_least: string[]}} Counts Statuses in `at_least` may have more. */
/**
 * @typedef {typeof import("../lib/job-list.js").UNREAD & {rows: Row[], counts: Counts | null,
 *   isCut?: boolean}} ListState
 */

/** What the list can be sorted by, and the order of the first click. @type {Array<[string, string, string, "asc" | "desc"]>} */
const SORTED = [
  ["next_run_at", "c-time c-next", "Next run", "asc"],
  ["created_at", "c-time", "Created", "desc"],
  ["run_ms", "c-num c-took num", "Ran", "desc"],
];
const Selection = lazy(() => import("./selection.js"), "Selection");
const useJobStatus = makeUseJobStatus(hooks, supabase);

/**
 * @param {{workspaceId: string, filter: Filter, onFilter: OnFilter, hrefOf?: (id: string) => string}} props
 *   The filter is kept by the caller, so that it can live in the address; `hrefOf` gives the address of a job's page.
 */
export function JobMonitor({ workspaceId, filter, onFilter, hrefOf = (id) => `/jobs/${id}` }) {
  /** @type {{list: {current: JobList}, state: ListState}} */
  const { list, state } = useJobList(
    workspaceId,
    useMemo(() => queryOf(filter), [JSON.stringify(filter)]),
  );
  const [chosen, setChosen] = useState(/** @type {Set<string>} */ (new Set()));
  const { rows, counts } = state;
  const rowHeight = useStore(density);
  const view = useVirtual({
    count: rows.length,
    rowHeight: ROWS[/** @type {keyof ROWS} */ (rowHeight)],
  });
  const onScreen = rows.slice(view.first, view.last);
  const ids = useRef(/** @type {string[]} */ ([]));
  ids.current = onScreen.map((row) => row.id);
  useLayoutEffect(() => list.current?.watchVisible(() => ids.current), [list.current]);
  useEffect(() => {
    if (!state.isLoading && !state.isAll && !state.error && view.last > rows.length - 30)
      list.current?.more();
  }, [view.last, rows.length, state.isAll, state.isLoadingMore, state.error]);
  useLayoutEffect(() => setChosen(new Set()), [workspaceId, JSON.stringify(filter)]);
  const toggle = (/** @type {string} */ id) =>
    setChosen((now) => {
      const next = new Set(now);
      if (!next.delete(id)) next.add(id);
      return next;
    });
  const picked = rows.filter((row) => chosen.has(row.id));
  const allShown = rows.length > 0 && picked.length === rows.length;
  return html`<div class="monitor">
    <${Groups} counts=${counts} chosen=${filter.state} onFilter=${onFilter} />
    <div class="bar">
      <${SearchBox}
        value=${filter.search ?? ""}
        onChange=${(/** @type {string} */ search) => onFilter({ search })} />
      <${Filters} filter=${filter} onFilter=${onFilter} rows=${rows} workspaceId=${workspaceId} />
      <span class="spacer"></span>
      <${Freshness} value=${state.freshness} />
      ${
        state.newer > 0 &&
        !state.isPaused &&
        quiet(counted(state.newer, "newer job"), () => {
          if (view.box.current) view.box.current.scrollTop = 0;
          list.current.refresh();
        })
      }
      ${
        state.isPaused
          ? quiet(`Resume (${counted(state.missed, "change")})`, () => list.current.resume(), {
              "aria-pressed": true,
            })
          : quiet("Pause", () => list.current.pause(), { "aria-pressed": false })
      }
      <button
        type="button"
        class="quiet density"
        aria-pressed=${rowHeight === "compact"}
        title="Rows of 32 pixels instead of 52"
        onClick=${nextDensity}>
        Compact
      </button>
    </div>
    ${
      state.error &&
      rows.length > 0 &&
      html`<${Stale} error=${state.error} retry=${() => list.current.refresh()} />`
    }
    <${Body}
      state=${state}
      filter=${filter}
      onFilter=${onFilter}
      retry=${() => list.current.load()} />
    <div
      class="table-scroll"
      data-density=${rowHeight}
      ref=${view.ref}
      tabindex="0"
      role="region"
      aria-label="Jobs"
      hidden=${rows.length === 0}>
      <table class="table jobs-table" aria-rowcount=${state.isAll ? rows.length + 1 : -1}>
        <thead>
          <tr>
            <th scope="col" class="c-check">
              <label class="tick">
                <input
                  type="checkbox"
                  checked=${allShown}
                  onChange=${() => setChosen(allShown ? new Set() : new Set(rows.map((row) => row.id)))} />
                <span class="hidden">Select all loaded jobs</span>
              </label>
            </th>
            <th scope="col" class="c-job">Job</th>
            <th scope="col" class="c-state">State</th>
            <th scope="col" class="c-progress">Progress</th>
            <th scope="col" class="c-num num">Attempt</th>
            ${SORTED.map(
              ([by, className, words, first]) =>
                html`<${SortHead}
                  key=${by}
                  ...${{ by, className, words, first, filter, onFilter }} />`,
            )}
            <th scope="col" class="c-id">Id</th>
          </tr>
        </thead>
        <tbody onKeyDown=${moveByArrows}>
          ${
            view.before > 0 &&
            html`<tr class="spacer-row" aria-hidden="true" key="before">
              <td style=${{ height: `${view.before}px` }}></td>
            </tr>`
          }
          ${onScreen.map(
            (row, index) => html`<${Row}
              key=${row.id}
              row=${row}
              index=${view.first + index}
              isChosen=${chosen.has(row.id)}
              toggle=${toggle}
              href=${hrefOf(row.id)} />`,
          )}
          ${
            view.after > 0 &&
            html`<tr class="spacer-row" aria-hidden="true" key="after">
              <td style=${{ height: `${view.after}px` }}></td>
            </tr>`
          }
        </tbody>
      </table>
      ${state.isLoadingMore && html`<p class="muted small pad">Loading more…</p>`}
    </div>
    ${
      (picked.length > 0 || Object.values(filter).some(Boolean)) &&
      html`<${Selection}
        picked=${picked}
        total=${counts}
        filter=${queryOf(filter)}
        workspaceId=${workspaceId}
        list=${list}
        clear=${() => setChosen(new Set())} />`
    }
    ${
      rows.length > 0 &&
      html`<p class="muted small foot num">
        ${state.isAll ? counted(rows.length, "job") : `${counted(rows.length, "job")} loaded, more below`}
        ${state.isCut && ". Sorted are the 10,000 youngest of each state: a filter or a shorter time reaches the others"}
      </p>`
    }
  </div>`;
}

/** @param {{counts: Counts | null, chosen?: string, onFilter: OnFilter}} props */
function Groups({ counts, chosen, onFilter }) {
  // of all workspaces only what is live and what failed is counted: no sum then
  const states = counts?.states;
  const total =
    states && NAMES.every((name) => name in states)
      ? NAMES.reduce((sum, name) => sum + states[name], 0)
      : null;
  const isMore = (/** @type {string} */ name) =>
    /** @type {number} */ (counts?.at_least?.length) > 0 &&
    (name ? /** @type {Counts} */ (counts).at_least.includes(statusOf(name) ?? "pending") : true);
  /**
   * @param {string} name
   * @param {string} word
   * @param {number | null} [count]
   * @param {string} [tone]
   */
  const entry = (name, word, count, tone) => html`<a
    key=${word}
    class="group"
    data-tone=${tone}
    data-group=${name || "all"}
    aria-current=${(chosen ?? "") === name ? "true" : undefined}
    href=${hrefWith(name)}
    onClick=${(/** @type {MouseEvent} */ event) => {
      if (event.metaKey || event.ctrlKey || event.button !== 0) return;
      event.preventDefault();
      onFilter({ state: name });
    }}>
    <span class="group-word">${word}</span>
    ${
      (count ?? null) !== null &&
      (count || !isMore(name)) &&
      html`<span class="group-count num">
        ${number(count)}
        ${isMore(name) ? "+" : ""}
      </span>`
    }
  </a>`;
  return html`<nav class="groups" aria-label="Jobs by state">
    ${entry("", "All", total)}
    ${NAMES.map((name) => entry(name, STATES[/** @type {keyof STATES} */ (name)].word, states?.[name], STATES[/** @type {keyof STATES} */ (name)].tone))}
  </nav>`;
}

function hrefWith(/** @type {string} */ state) {
  const url = new URL(location.href);
  if (state) url.searchParams.set("state", state);
  else url.searchParams.delete("state");
  return `${url.pathname}${url.search}`;
}

/**
 * What the list asks for: times as instants, a range as a beginning, sorting only where it is another.
 *
 * @param {Filter} filter
 */
function queryOf({ since, sort, order, ...rest }) {
  return {
    ...rest,
    ...(since && { created_after: beginOf(since) }),
    ...(sort && sort !== "created_at" && { sort, order: order ?? "desc" }),
  };
}

/**
 * A column that the list can be sorted by.
 *
 * @param {{by: string, className: string, words: string, first: "asc" | "desc", filter: Filter, onFilter: OnFilter}} props
 */
function SortHead({ by, className, words, first, filter, onFilter }) {
  const isOn = (filter.sort ?? "created_at") === by;
  const order = filter.order ?? "desc";
  const next =
    isOn && by !== "created_at"
      ? order === first
        ? { order: first === "desc" ? "asc" : "desc" }
        : { sort: "", order: "" }
      : by === "created_at"
        ? { sort: "", order: "" }
        : { sort: by, order: first };
  return html`<th
    scope="col"
    class=${className}
    aria-sort=${isOn ? (order === "asc" ? "ascending" : "descending") : undefined}>
    <button type="button" class="sort" onClick=${() => onFilter(next)}>
      ${words}
      <span aria-hidden="true">${isOn ? (order === "asc" ? " ↑" : " ↓") : ""}</span>
    </button>
  </th>`;
}

/**
 * A search field that waits for a pause in typing; `/` goes to it.
 *
 * @param {{value: string, onChange: (text: string) => void, placeholder?: string}} props
 */
export function SearchBox({
  value,
  onChange,
  placeholder = "Search type, error, tag, payload, key or id",
}) {
  const [text, setText] = useState(value);
  const input = useRef(/** @type {HTMLInputElement | null} */ (null));
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
      onInput=${(/** @type {{target: HTMLInputElement}} */ event) => setText(event.target.value)} />
  </label>`;
}

/** @param {{state: ListState, filter: Filter, onFilter: OnFilter, retry: () => void}} props */
function Body({ state, filter, onFilter, retry }) {
  if (state.rows.length > 0) return null;
  if (state.error)
    return html`<${Failed} error=${state.error} retry=${retry} what="The jobs could not be read" />`;
  if (state.isLoading) return html`<${Loading} what="Reading jobs" />`;
  if (!state.isAll) return html`<${Loading} what="Looking at older jobs" />`;
  if (Object.values(filter).some(Boolean)) {
    const none = Object.fromEntries(Object.keys(filter).map((name) => [name, ""]));
    return html`<${Empty} title="No job matches">
      ${quiet("Show all jobs", () => onFilter(none))}
    <//>`;
  }
  return html`<${Empty} title="No jobs yet">
    A job appears here the moment it is enqueued: from the API, from SQL, or from one of the apps in the menu.
  <//>`;
}

/** A failed job's error, a running one's stage, else a glimpse of the payload. */
const hasTrouble = (/** @type {Row} */ row) =>
  Boolean(row.error_message) && (row.status === "failed" || row.status === "pending");
const second = (/** @type {Row} */ row) =>
  hasTrouble(row)
    ? errorLine(row)
    : (row.status !== "completed" && (row.progress?.message || row.progress?.stage)) || row.glimpse;

/**
 * @param {{row: Row, index: number, isChosen: boolean, toggle: (id: string) => void, href: string}} props
 */
function Row({ row, index, isChosen, toggle, href }) {
  return html`<tr
    aria-rowindex=${index + 2}
    class=${classes("job-row", isChosen && "chosen")}
    data-job=${row.id}
    data-status=${row.status}>
    <td class="c-check">
      <label class="tick">
        <input type="checkbox" checked=${isChosen} onChange=${() => toggle(row.id)} />
        <span class="hidden">Select ${row.job_type} ${shortId(row.id)}</span>
      </label>
    </td>
    <td class="c-job">
      <a class="row-link" href=${href}>
        <span class="job-type">${row.job_type}</span>
        ${
          second(row) &&
          html`<span class=${classes("job-note", hasTrouble(row) && "bad")}>
            ${second(row)}
          </span>`
        }
      </a>
    </td>
    <td class="c-state">
      <${StateBadge} job=${row} cancelling=${Boolean(row.cancel_requested_at)} />
    </td>
    <td class="c-progress">
      ${
        row.status === "processing"
          ? html`<${LiveProgress} row=${row} />`
          : !ENDED.has(row.status) && percentage(row.progress) > 0
            ? html`<${JobProgress} job=${row} compact />`
            : ""
      }
    </td>
    <td class="c-num num">${row.attempts}<span class="muted">/${row.max_attempts}</span></td>
    <td class="c-time c-next">
      ${
        stateOfJob(row) === "queued"
          ? html`<span class="muted">due</span>`
          : html`<${When} at=${nextRunOf(row)} />`
      }
    </td>
    <td class="c-time"><${When} at=${row.created_at} /></td>
    <td class="c-num c-took num"><${Ran} row=${row} /></td>
    <td class="c-id mono small muted">${shortId(row.id)}</td>
  </tr>`;
}

/**
 * How long it ran, over all its runs; of a running one until now.
 *
 * @param {{row: Row}} props
 */
function Ran({ row }) {
  const earlier = Number(
    row.run_ms ?? (row.status === "processing" ? 0 : row.times?.run_ms) ?? Number.NaN,
  );
  const since = row.running_since ?? (row.attempts <= 1 ? row.started_at : null);
  if (row.status === "processing" && since)
    return html`<${Took} from=${since} before=${row.running_since ? earlier || 0 : 0} />`;
  return row.started_at && Number.isFinite(earlier)
    ? duration(earlier)
    : html`<span class="none">–</span>`;
}

/**
 * Progress does not travel on the workspace's topic: a running row on screen follows its job.
 *
 * @param {{row: Row}} props
 */
function LiveProgress({ row }) {
  const { job } = useJobStatus({ jobId: row.id });
  const newer =
    job && job.last_seq >= (row.last_seq ?? 0) && job.status === "processing" ? job : row;
  return html`<${JobProgress} job=${newer} compact />`;
}

function moveByArrows(/** @type {KeyboardEvent & {target: HTMLElement}} */ event) {
  if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
  const row = event.target.closest("tr.job-row");
  /** @type {Element | null | undefined} */
  let next = row;
  do next = event.key === "ArrowDown" ? next?.nextElementSibling : next?.previousElementSibling;
  while (next && !next.classList.contains("job-row"));
  const target = /** @type {HTMLElement | null | undefined} */ (
    next?.querySelector(event.target.matches("input") ? "input" : "a.row-link")
  );
  if (!target) return;
  event.preventDefault();
  target.focus();
}
