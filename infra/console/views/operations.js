// How the whole is doing: throughput, waits and runs, what is due, dead letters, pauses, limits.

import { operations } from "../api.js";
import { duration, number, percent } from "../lib/format.js";
import { usePolling, useRead } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { Tag } from "../parts/badge.js";
import { Chart } from "../parts/chart.js";
import { DeadLetters } from "../parts/dead-letters.js";
import { ActionButton, confirm } from "../parts/dialog.js";
import { Members } from "../parts/members.js";
import { Retention } from "../parts/retention.js";
import { Schedules } from "../parts/schedules.js";
import { Empty, Failed, Loading, Stale } from "../parts/states-of-view.js";
import { tell, tellFailure } from "../parts/toasts.js";
import { Webhooks } from "../parts/webhooks.js";
import { When } from "../parts/when.js";
import { WorkspaceLimits } from "../parts/workspace-limits.js";

export const title = () => "Operations";

const EVERY_MS = 5000;

export default function Operations({ workspace }) {
  const [operatorToken, setOperatorToken] = useState("");
  const stats = useRead((signal) => (operatorToken ? operations.wholeStats(operatorToken, signal) : operations.stats(workspace.id, signal)), [workspace.id, operatorToken]);
  const health = useRead((signal) => operations.health(signal), []);
  usePolling(stats, EVERY_MS);
  usePolling(health, EVERY_MS);
  return html`<div class="page">
    <header class="page-head"><h1 tabindex="-1">Operations</h1><span class="muted">${operatorToken ? "the whole queue" : workspace.name}, last hour</span><span class="spacer"></span>
      <${Operator} token=${operatorToken} setToken=${setOperatorToken} /></header>
    <${Readiness} health=${health} />
    ${stats.isStale && html`<${Stale} error=${stats.error} retry=${stats.refresh} />`}
    ${!stats.value && stats.error && html`<${Failed} error=${stats.error} retry=${stats.refresh} what="The statistics could not be read" />`}
    ${!stats.value && !stats.error && html`<${Loading} what="Reading statistics" />`}
    ${stats.value && html`<${Numbers} stats=${stats.value} workspace=${workspace} refresh=${stats.refresh} isWhole=${Boolean(operatorToken)} />`}
    <section class="card" aria-labelledby="h-dead"><h2 id="h-dead">Dead letters</h2><${DeadLetters} workspaceId=${workspace.id} /></section>
    <${WorkspaceLimits} workspace=${workspace} /><${Schedules} workspace=${workspace} /><${Webhooks} workspace=${workspace} /><${Retention} workspaceId=${workspace.id} /><${Members} workspace=${workspace} />
  </div>`;
}

const VERDICTS = { pass: ["completed", "OK"], warn: ["waiting", "Look"], fail: ["failed", "Failing"] };
const CHECKS = { database: "Database", queue_depth: "Queue depth", oldest_due: "Oldest due job", last_tick: "Last tick" };

function Readiness({ health }) {
  if (!health.value && health.error) return html`<${Failed} error=${health.error} retry=${health.refresh} what="Readiness could not be read" />`;
  return html`<section class="grid-cards" aria-label="Readiness">
    ${Object.entries(CHECKS).map(([name, label]) => {
      const check = health.value?.checks?.[name];
      const [tone, word] = VERDICTS[check?.verdict] ?? ["pending", "…"];
      return html`<div class="card figure" key=${name}><p class="figure-name">${label} <${Tag} tone=${tone}>${word}<//></p><p class="muted small">${check?.detail ?? "\u00a0"}</p></div>`;
    })}
  </section>`;
}

function totals(types) {
  const sum = { completed: 0, failed: 0, cancelled: 0, retried: 0, lost: 0, enqueued: 0 };
  for (const line of Object.values(types)) for (const name of Object.keys(sum)) sum[name] += Number(line[name] ?? 0);
  return sum;
}

const share = ({ completed, failed }) => (completed + failed > 0 ? completed / (completed + failed) : Number.NaN);

function Numbers({ stats, workspace, refresh, isWhole }) {
  const types = Object.entries(stats.types ?? {}).sort(([a], [b]) => a.localeCompare(b));
  const sum = totals(stats.types ?? {});
  const figure = (name, value, note) => html`<div class="card figure"><p class="figure-name muted">${name}</p><p class="figure-value num">${value}</p><p class="muted small">${note ?? "\u00a0"}</p></div>`;
  return html`
    <section class="grid-cards" aria-label="Totals">
      ${figure("Pending", number(stats.live.pending), stats.oldest_due_at ? html`oldest due <${When} at=${stats.oldest_due_at} />` : "nothing is due")}
      ${figure("Processing", number(stats.live.processing))}
      ${figure("Waiting", number(stats.live.waiting))}
      ${figure("Completed", number(sum.completed), `${number(sum.enqueued)} enqueued`)}
      ${figure("Success", percent(share(sum)), `${number(sum.failed)} failed, ${number(sum.retried)} retried`)}
      ${figure("Lost workers", number(sum.lost))}
      ${stats.messages && figure("Messages to Realtime", `${number(stats.messages.per_second)} /s`, `of ${number(stats.messages.budget_per_second)} /s, ${number(stats.messages.held_last_hour)} held back; about $${stats.messages.month_usd} a month on Pro`)}
    </section>
    <${Pauses} stats=${stats} workspace=${workspace} refresh=${refresh} />
    <section class="card" aria-labelledby="h-through"><h2 id="h-through">Throughput</h2>
      <${Chart} label="Jobs per minute" minutes=${stats.throughput} since=${stats.since} now=${stats.now} /></section>
    <section class="card" aria-labelledby="h-types"><h2 id="h-types">By type</h2>
      ${types.length === 0 ? html`<${Empty} title="No job ran in the last hour" />` : html`<div class="scroll-x" tabindex="0" role="group" aria-label="By type"><table class="table">
        <thead><tr><th scope="col" rowspan="2">Type</th>${["Completed", "Failed", "Retried", "Success"].map((word) => html`<th scope="col" rowspan="2" class="num" key=${word}>${word}</th>`)}
          <th scope="colgroup" colspan="3" class="num group-head">Queue wait</th><th scope="colgroup" colspan="3" class="num group-head">Run time</th></tr>
          <tr>${["wait", "run"].flatMap((name) => PERCENTILES.map(([, word]) => html`<th scope="col" class="num" key=${`${name} ${word}`}>${word}</th>`))}</tr></thead>
        <tbody>${types.map(([type, line]) => html`<tr key=${type}><th scope="row" class="wrap"><a href=${`/jobs?job_type=${encodeURIComponent(type)}`}>${type}</a></th>
          <td class="num">${number(line.completed)}</td><td class="num">${number(line.failed)}</td><td class="num">${number(line.retried)}</td><td class="num">${percent(share(line))}</td>
          ${[line.wait, line.run].flatMap((times, index) => PERCENTILES.map(([name, word]) => html`<td class="num" key=${`${index} ${word}`}>${duration(times?.[name] ?? Number.NaN)}</td>`))}</tr>`)}</tbody>
      </table></div>`}
    </section>
    ${isWhole && html`<${Limits} limits=${stats.limits ?? []} /><${Ticks} ticks=${stats.workers ?? []} />`}`;
}

const PERCENTILES = [["p50_ms", "p50"], ["p95_ms", "p95"], ["p99_ms", "p99"]];

function Pauses({ stats, workspace, refresh }) {
  const own = (stats.pauses ?? []).find((pause) => pause.kind === "workspace" && pause.name === workspace.id);
  const queues = (stats.pauses ?? []).filter((pause) => pause.kind === "queue");
  const [reason, setReason] = useState("");
  const change = async (paused) => {
    if (paused && !(await confirm({ title: `Pause ${workspace.name}?`, text: `No job of ${workspace.name} starts until you resume. Running jobs go on, new ones wait.`, action: "Pause the workspace", danger: true }))) return;
    try {
      await operations.pause(workspace.id, paused, reason);
      tell(paused ? `${workspace.name} is paused` : `${workspace.name} goes on`);
      refresh();
    } catch (error) {
      tellFailure(paused ? "Not paused" : "Not resumed", error);
    }
  };
  const isManager = workspace.role === "manager";
  return html`<section class="card bar" aria-label="Pause">
    <${Tag} tone=${own ? "waiting" : "completed"}>${own ? "Paused" : "Running"}<//>
    <span>${own ? html`No job of ${workspace.name} starts${own.reason && `: ${own.reason}`}.` : html`Jobs of ${workspace.name} start as soon as they are due.`}
      ${queues.length > 0 && ` Paused by the operator: ${queues.map((pause) => pause.name).join(", ")}.`}</span>
    <span class="spacer"></span>
    ${isManager && !own && html`<label class="field-inline"><span class="hidden">Reason for the pause</span><input type="text" placeholder="Reason, if any" value=${reason} onInput=${(event) => setReason(event.target.value)} /></label>
      <${ActionButton} run=${() => change(true)}>Pause<//>`}
    ${isManager && own && html`<${ActionButton} className="primary" run=${() => change(false)}>Resume<//>`}
    ${!isManager && html`<span class="muted small">A manager may pause the workspace.</span>`}
  </section>`;
}

function Limits({ limits }) {
  if (limits.length === 0) return null;
  const use = (line) => (line.max_concurrency ? line.running / line.max_concurrency : 0);
  return html`<section class="card" aria-labelledby="h-limits"><h2 id="h-limits">Limits by type</h2>
    <div class="scroll-x" tabindex="0" role="group" aria-label="Limits"><table class="table"><thead><tr><th scope="col">Type</th><th scope="col" class="num">Running</th><th scope="col" class="num">At most</th><th scope="col">Use</th><th scope="col" class="num">Per workspace</th><th scope="col" class="num">Per key</th><th scope="col">Rate</th><th scope="col">State</th></tr></thead>
    <tbody>${limits.map((line) => html`<tr key=${line.job_type}><th scope="row">${line.job_type}</th><td class="num">${line.running}</td><td class="num">${line.max_concurrency ?? "no limit"}</td>
      <td>${line.max_concurrency ? html`<meter min="0" max="1" high="0.9" value=${use(line)} aria-label=${`${line.running} of ${line.max_concurrency}`}></meter>` : ""}</td>
      <td class="num">${line.workspace_concurrency ?? "–"}</td><td class="num">${line.key_concurrency ?? "–"}</td><td>${line.rate_limit ? `${line.rate_limit} per ${duration(line.rate_per_seconds * 1000)}` : "–"}</td>
      <td>${line.paused_at ? html`<${Tag} tone="waiting">Paused<//>` : html`<${Tag} tone="completed">Running<//>`}</td></tr>`)}</tbody></table></div>
  </section>`;
}

function Ticks({ ticks }) {
  return html`<section class="card" aria-labelledby="h-ticks"><h2 id="h-ticks">Ticks</h2>
    ${ticks.length === 0 ? html`<${Empty} title="No tick yet" />` : html`<div class="scroll-x" tabindex="0" role="group" aria-label="Ticks"><table class="table"><thead><tr><th scope="col">Worker</th><th scope="col">Version</th><th scope="col">Started</th><th scope="col">Seen</th><th scope="col" class="num">Leased</th><th scope="col" class="num">Free slots</th><th scope="col">State</th></tr></thead>
    <tbody>${ticks.map((tick) => html`<tr key=${tick.tick_id}><td class="mono small">${tick.worker_id}</td><td>${tick.version ?? "–"}</td><td><${When} at=${tick.started_at} /></td><td><${When} at=${tick.seen_at} /></td><td class="num">${number(tick.leased)}</td><td class="num">${number(tick.free_slots)}</td>
      <td>${tick.ended_at ? html`<${Tag} tone="completed">Ended<//>` : html`<${Tag} tone="processing">Running<//>`}</td></tr>`)}</tbody></table></div>`}
  </section>`;
}

/** The operator's token stays in this page's memory and goes nowhere but to the API. */
function Operator({ token, setToken }) {
  const [open, setOpen] = useState(false);
  const [text, setText] = useState("");
  if (token) return html`<button type="button" onClick=${() => setToken("")}>Leave operator's view</button>`;
  if (!open) return html`<button type="button" class="quiet" onClick=${() => setOpen(true)}>Operator's view</button>`;
  return html`<form class="bar" onSubmit=${(event) => { event.preventDefault(); setToken(text.trim()); setText(""); setOpen(false); }}>
    <label class="field-inline"><span class="hidden">Operator token</span><input type="password" autocomplete="off" placeholder="WORKER_SECRET_TOKEN" value=${text} onInput=${(event) => setText(event.target.value)} autofocus /></label>
    <button type="submit" disabled=${!text.trim()}>Show</button><button type="button" class="quiet" onClick=${() => setOpen(false)}>Close</button>
  </form>`;
}
