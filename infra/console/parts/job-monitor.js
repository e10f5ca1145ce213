// JobMonitor: a workspace's jobs, live: groups with counts, filters, search, selection, actions.

import { jobs as api, supabase } from "../api.js";
import { counted, duration, glimpse, number, percentage, shortId } from "../lib/format.js";
import { useJobList } from "../lib/job-list.js";
import { ENDED, makeUseJobStatus } from "../lib/jobs.js";
import { STATES, STATUSES } from "../lib/states.js";
import { classes, hooks, html, useEffect, useLayoutEffect, useRef, useState } from "../lib/ui.js";
import { useVirtual } from "../lib/virtual.js";
import { Freshness, StateBadge } from "./badge.js";
import { confirm } from "./dialog.js";
import { Icon } from "./icons.js";
import { JobProgress } from "./job-progress.js";
import { Empty, Failed, Loading, Stale } from "./states-of-view.js";
import { tell, tellFailure } from "./toasts.js";
import { Took, When } from "./when.js";

const ROW = 52;
const CHIPS = [["job_type", "type"], ["queue", "queue"], ["parent_id", "parent"]];
const useJobStatus = makeUseJobStatus(hooks, supabase);

/**
 * @param {{workspaceId: string, filter: {status?, job_type?, queue?, parent_id?, search?}, onFilter: (changes:
 *   object) => void, hrefOf?: (id: string) => string}} props The filter is kept by the caller, so
 *   that it can live in the address; `hrefOf` gives the address of a job's page.
 */
export function JobMonitor({ workspaceId, filter, onFilter, hrefOf = (id) => `/jobs/${id}` }) {
  const { list, state } = useJobList(workspaceId, filter);
  const [chosen, setChosen] = useState(new Set());
  const { rows, counts } = state;
  const view = useVirtual({ count: rows.length, rowHeight: ROW });
  const onScreen = rows.slice(view.first, view.last);
  const ids = useRef([]);
  ids.current = onScreen.map((row) => row.id);
  useLayoutEffect(() => list.current?.watchVisible(() => ids.current), [list.current]);
  useEffect(() => {
    if (!state.isLoading && !state.isAll && !state.error && view.last > rows.length - 30) list.current?.more();
  }, [view.last, rows.length, state.isAll, state.isLoadingMore, state.error]);
  useLayoutEffect(() => setChosen(new Set()), [workspaceId, JSON.stringify(filter)]);
  const toggle = (id) => setChosen((now) => {
    const next = new Set(now);
    if (!next.delete(id)) next.add(id);
    return next;
  });
  const picked = rows.filter((row) => chosen.has(row.id));
  const allShown = rows.length > 0 && picked.length === rows.length;
  return html`<div class="monitor">
    <${Groups} counts=${counts} status=${filter.status} onFilter=${onFilter} />
    <div class="bar">
      <${SearchBox} value=${filter.search ?? ""} onChange=${(search) => onFilter({ search })} />
      ${CHIPS.filter(([name]) => filter[name]).map(([name, word]) => html`<button type="button" class="chip" key=${name} onClick=${() => onFilter({ [name]: "" })} aria-label=${`Remove filter ${word} ${filter[name]}`}>${word}: ${name === "parent_id" ? shortId(filter[name]) : filter[name]} <${Icon} name="cross" /></button>`)}
      <span class="spacer"></span>
      ${state.newer > 0 && !state.isPaused && html`<button type="button" class="quiet" onClick=${() => { if (view.box.current) view.box.current.scrollTop = 0; list.current.refresh(); }}>${counted(state.newer, "newer job")}</button>`}
      <button type="button" class="quiet" aria-pressed=${Boolean(state.isPaused)} onClick=${() => (state.isPaused ? list.current.resume() : list.current.pause())}>
        ${state.isPaused ? `Resume (${counted(state.missed, "change")})` : "Pause"}
      </button>
      <${Freshness} value=${state.freshness} />
    </div>
    ${state.error && rows.length > 0 && html`<${Stale} error=${state.error} retry=${() => list.current.refresh()} />`}
    <${Body} state=${state} filter=${filter} onFilter=${onFilter} retry=${() => list.current.load()} />
    <div class="table-scroll" ref=${view.ref} tabindex="0" role="region" aria-label="Jobs" hidden=${rows.length === 0}>
      <table class="table jobs-table" aria-rowcount=${state.isAll ? rows.length + 1 : -1}>
        <thead><tr>
          <th scope="col" class="c-check"><label class="tick"><input type="checkbox" checked=${allShown} onChange=${() => setChosen(allShown ? new Set() : new Set(rows.map((row) => row.id)))} /><span class="hidden">Select all loaded jobs</span></label></th>
          <th scope="col" class="c-job">Job</th><th scope="col" class="c-state">State</th><th scope="col" class="c-progress">Progress</th>
          <th scope="col" class="c-num num">Attempt</th><th scope="col" class="c-time">Created</th><th scope="col" class="c-num c-took num">Took</th><th scope="col" class="c-id">Id</th>
        </tr></thead>
        <tbody onKeyDown=${moveByArrows}>
          ${view.before > 0 && html`<tr class="spacer-row" aria-hidden="true" key="before"><td style=${{ height: `${view.before}px` }}></td></tr>`}
          ${onScreen.map((row, index) => html`<${Row} key=${row.id} row=${row} index=${view.first + index} isChosen=${chosen.has(row.id)} toggle=${toggle} href=${hrefOf(row.id)} />`)}
          ${view.after > 0 && html`<tr class="spacer-row" aria-hidden="true" key="after"><td style=${{ height: `${view.after}px` }}></td></tr>`}
        </tbody>
      </table>
      ${state.isLoadingMore && html`<p class="muted small pad">Loading more…</p>`}
    </div>
    <${Selection} picked=${picked} total=${counts} filter=${filter} workspaceId=${workspaceId} list=${list} clear=${() => setChosen(new Set())} />
    ${rows.length > 0 && html`<p class="muted small foot num">${state.isAll ? counted(rows.length, "job") : `${counted(rows.length, "job")} loaded, more below`}</p>`}
  </div>`;
}

function Groups({ counts, status, onFilter }) {
  const total = counts && STATUSES.reduce((sum, name) => sum + (counts[name] ?? 0), 0);
  const isMore = (name) => counts?.more?.length > 0 && (name ? counts.more.includes(name) : true);
  const entry = (name, word, count, tone) => html`<a key=${word} class="group" data-tone=${tone} data-group=${name || "all"} aria-current=${(status ?? "") === name ? "true" : undefined}
      href=${hrefWith(name)} onClick=${(event) => { if (event.metaKey || event.ctrlKey || event.button !== 0) return; event.preventDefault(); onFilter({ status: name }); }}>
    <span class="group-word">${word}</span><span class="group-count num">${count === undefined || count === null ? "–" : `${number(count)}${isMore(name) ? "+" : ""}`}</span>
  </a>`;
  return html`<nav class="groups" aria-label="Jobs by state">
    ${entry("", "All", total)}
    ${STATUSES.map((name) => entry(name, STATES[name].word, counts?.[name], STATES[name].tone))}
  </nav>`;
}

function hrefWith(status) {
  const url = new URL(location.href);
  if (status) url.searchParams.set("status", status);
  else url.searchParams.delete("status");
  return `${url.pathname}${url.search}`;
}

/** A search field that waits for a pause in typing; `/` goes to it. */
export function SearchBox({ value, onChange, placeholder = "Search type, error, key or id" }) {
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
  useLayoutEffect(() => {
    const go = (event) => {
      if (event.key !== "/" || event.target.closest("input, textarea, select, dialog")) return;
      event.preventDefault();
      input.current?.focus();
    };
    addEventListener("keydown", go);
    return () => removeEventListener("keydown", go);
  }, []);
  return html`<label class="search"><span class="hidden">${placeholder}</span><${Icon} name="search" />
    <input ref=${input} type="search" value=${text} placeholder=${placeholder} onInput=${(event) => setText(event.target.value)} />
  </label>`;
}

function Body({ state, filter, onFilter, retry }) {
  if (state.rows.length > 0) return null;
  if (state.isLoading) return html`<${Loading} what="Reading jobs" />`;
  if (state.error) return html`<${Failed} error=${state.error} retry=${retry} what="The jobs could not be read" />`;
  if (!state.isAll) return html`<${Loading} what="Looking at older jobs" />`;
  if (Object.values(filter).some(Boolean)) {
    return html`<${Empty} title="No job matches"><button type="button" class="quiet" onClick=${() => onFilter(Object.fromEntries(Object.keys(filter).map((name) => [name, ""])))}>Show all jobs</button><//>`;
  }
  return html`<${Empty} title="No jobs yet">A job appears here the moment it is enqueued: from the API, from SQL, or from one of the apps in the menu.<//>`;
}

/** A failed job's error, a running one's stage, else the beginning of the payload. */
const hasTrouble = (row) => Boolean(row.error_message) && (row.status === "failed" || row.status === "pending");
const second = (row) => (hasTrouble(row) ? row.error_message : (row.status !== "completed" && (row.progress?.message || row.progress?.stage)) || glimpse(row.payload));

function Row({ row, index, isChosen, toggle, href }) {
  return html`<tr aria-rowindex=${index + 2} class=${classes("job-row", isChosen && "chosen")} data-job=${row.id} data-status=${row.status}>
    <td class="c-check"><label class="tick"><input type="checkbox" checked=${isChosen} onChange=${() => toggle(row.id)} /><span class="hidden">Select ${row.job_type} ${shortId(row.id)}</span></label></td>
    <td class="c-job"><a class="row-link" href=${href}><span class="job-type">${row.job_type}</span>
      <span class=${classes("job-note", hasTrouble(row) && "bad")}>${second(row) || "\u00a0"}</span></a></td>
    <td class="c-state"><${StateBadge} status=${row.status} cancelling=${Boolean(row.cancel_requested_at)} /></td>
    <td class="c-progress">${row.status === "processing" ? html`<${LiveProgress} row=${row} />` : percentage(row.progress) > 0 || row.status === "completed" ? html`<${JobProgress} job=${row} compact />` : html`<span class="none">–</span>`}</td>
    <td class="c-num num">${row.attempts}<span class="muted">/${row.max_attempts}</span></td>
    <td class="c-time"><${When} at=${row.created_at} /></td>
    <td class="c-num c-took num">${row.status === "processing" ? html`<${Took} from=${row.started_at} />` : ENDED.has(row.status) && row.started_at ? duration(Date.parse(row.completed_at) - Date.parse(row.started_at)) : "–"}</td>
    <td class="c-id mono small muted">${shortId(row.id)}</td>
  </tr>`;
}

/** Progress does not travel on the workspace's topic: a running row on screen follows its job. */
function LiveProgress({ row }) {
  const { job } = useJobStatus({ jobId: row.id });
  const newer = job && job.last_seq >= (row.last_seq ?? 0) && job.status === "processing" ? job : row;
  return html`<${JobProgress} job=${newer} compact />`;
}

function moveByArrows(event) {
  if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
  const row = event.target.closest("tr.job-row");
  let next = row;
  do next = event.key === "ArrowDown" ? next?.nextElementSibling : next?.previousElementSibling;
  while (next && !next.classList.contains("job-row"));
  const target = next?.querySelector(event.target.matches("input") ? "input" : "a.row-link");
  if (!target) return;
  event.preventDefault();
  target.focus();
}

const LIVE = new Set(["pending", "processing", "waiting"]);

/**
 * What can be done to the chosen jobs, or to all that match; each says how many it touches. It stands
 * below the table: above, it would move the rows from under the pointer when it comes and goes.
 */
function Selection({ picked, total, filter, workspaceId, list, clear }) {
  const live = picked.filter((row) => LIVE.has(row.status));
  const failed = picked.filter((row) => row.status === "failed");
  const cancelled = picked.filter((row) => row.status === "cancelled");
  const matching = total && filter.status && !filter.search && !filter.parent_id ? total[filter.status] : 0;
  const all = total?.more?.includes(filter.status) ? `${number(matching)}+ jobs` : counted(matching, "job");
  const where = Object.fromEntries(Object.entries({ status: filter.status, job_type: filter.job_type, queue: filter.queue }).filter(([, value]) => value));

  const act = async ({ title, text, action, danger, run, done }) => {
    if (!(await confirm({ title, text, action, danger }))) return;
    try {
      tell(done(await run()));
      clear();
    } catch (error) {
      tellFailure(action, error);
    }
    list.current.refresh();
  };
  const repeat = async (call, wanted) => {
    let count = 0;
    let cursor = null;
    do {
      const result = await call(workspaceId, wanted, cursor);
      count += result.count;
      cursor = result.next;
    } while (cursor);
    return count;
  };
  const chunks = async (call, rows) => {
    let count = 0;
    for (let at = 0; at < rows.length; at += 1000) count += (await call(workspaceId, { ids: rows.slice(at, at + 1000).map((row) => row.id) })).count;
    return count;
  };
  const cancelPicked = () => act({ title: `Cancel ${counted(live.length, "job")}?`, text: "Pending and waiting jobs end at once; running ones stop within a heartbeat. Child jobs are cancelled too.", action: `Cancel ${counted(live.length, "job")}`, danger: true, run: () => chunks(api.cancelMany, live), done: (count) => `Cancelled ${counted(count, "job")}` });
  const redrivePicked = () => act({ title: `Redrive ${counted(failed.length, "job")}?`, text: "Each starts again with fresh attempts; finished steps are kept.", action: `Redrive ${counted(failed.length, "job")}`, run: () => chunks(api.redriveMany, failed), done: (count) => `Redriven ${counted(count, "job")}` });
  const retryPicked = () => act({ title: `Retry ${counted(cancelled.length, "job")}?`, text: "Cancelled jobs start again with fresh attempts.", action: `Retry ${counted(cancelled.length, "job")}`, run: async () => (await Promise.all(cancelled.map((row) => api.retry(row.id)))).length, done: (count) => `Retried ${counted(count, "job")}` });
  const cancelAll = () => act({ title: `Cancel all ${all}?`, text: `Every ${STATES[filter.status].word.toLowerCase()} job of this workspace${filter.job_type ? ` of type ${filter.job_type}` : ""}${filter.queue ? ` in queue ${filter.queue}` : ""} is cancelled, loaded here or not.`, action: `Cancel ${all}`, danger: true, run: () => repeat(api.cancelMany, where), done: (count) => `Cancelled ${counted(count, "job")}` });
  const redriveAll = () => act({ title: `Redrive all ${all}?`, text: "Every dead letter that matches starts again with fresh attempts, loaded here or not.", action: `Redrive ${all}`, run: () => repeat(api.redriveMany, where), done: (count) => `Redriven ${counted(count, "job")}` });

  const offersAll = matching > 0 && (LIVE.has(filter.status) || filter.status === "failed");
  if (picked.length === 0 && !offersAll) return null;
  return html`<div class="selection" role="region" aria-label="Selected jobs">
    <span class="num">${picked.length > 0 ? `${counted(picked.length, "job")} selected` : `${all} ${STATES[filter.status].word.toLowerCase()}`}</span>
    <span class="spacer"></span>
    ${picked.length > 0 && html`
      ${live.length > 0 && html`<button type="button" class="danger" onClick=${cancelPicked}>Cancel ${number(live.length)}</button>`}
      ${failed.length > 0 && html`<button type="button" onClick=${redrivePicked}>Redrive ${number(failed.length)}</button>`}
      ${cancelled.length > 0 && html`<button type="button" onClick=${retryPicked}>Retry ${number(cancelled.length)}</button>`}
      <button type="button" class="quiet" onClick=${clear}>Clear</button>`}
    ${picked.length === 0 && offersAll && (filter.status === "failed"
      ? html`<button type="button" onClick=${redriveAll}>Redrive all ${number(matching)}</button>`
      : html`<button type="button" class="quiet" onClick=${cancelAll}>Cancel all ${number(matching)}</button>`)}
  </div>`;
}
