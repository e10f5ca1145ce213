// The job monitor: what of training waits, runs and has ended, as the views job_queue and background_jobs tell it.

import { supabase } from "../../api.js";
import { duration, shortId } from "../../lib/format.js";
import { watchWorkspace } from "../../lib/jobs.js";
import { usePolling, useRead } from "../../lib/store.js";
import { html, useEffect, useState } from "../../lib/ui.js";
import { Freshness, StateBadge } from "../../parts/badge.js";
import { Empty, Failed, Loading, Stale } from "../../parts/states-of-view.js";
import { When } from "../../parts/when.js";
import { monitor } from "./data.js";

export const title = () => "Job monitor";

export default function Monitor({ workspace }) {
  const found = useRead((signal) => Promise.all([monitor.queue(workspace.id, signal), monitor.ended(workspace.id, signal)]), [workspace.id]);
  const [freshness, setFreshness] = useState("catching-up");
  useEffect(() => {
    let timer = null;
    const soon = () => (timer ??= setTimeout(() => { timer = null; found.refresh(); }, 400));
    const watch = watchWorkspace(supabase(), workspace.id, { onEvent: soon, onResync: ({ first }) => (first ? undefined : soon()), onChange: (changed) => setFreshness(changed.freshness) });
    return () => { clearTimeout(timer); watch.close(); };
  }, [workspace.id]);
  const [queued, ended] = found.value ?? [[], []];
  usePolling(found, queued.length > 0 ? 10_000 : null);
  const job = (one) => html`<th scope="row"><a href=${`/jobs/${one.id}`}><code>${shortId(one.id)}</code></a></th><td>${one.type}</td><td><${StateBadge} status=${one.status} /></td><td class="num">${one.attempts} of ${one.max_attempts}</td>`;
  return html`<div class="page">
    <header class="page-head"><div class="grow"><p class="crumb"><a href="/trainings">Training</a></p><h1 tabindex="-1">Job monitor</h1></div><${Freshness} value=${freshness} /></header>
    ${found.isStale && html`<${Stale} error=${found.error} retry=${found.refresh} />`}
    ${!found.value && found.error && html`<${Failed} error=${found.error} retry=${found.refresh} what="The jobs could not be read" />`}
    ${!found.value && !found.error && html`<${Loading} what="Reading the jobs" />`}
    ${found.value && html`<section class="card" aria-labelledby="h-queue"><h2 id="h-queue">Waiting and running</h2>
      ${queued.length === 0 ? html`<${Empty} title="Nothing waits">Every job of training has ended.<//>`
        : html`<div class="scroll-x" tabindex="0" role="group" aria-label="Waiting and running"><table class="table"><thead><tr><th scope="col">Job</th><th scope="col">Type</th><th scope="col">State</th><th scope="col">Attempts</th><th scope="col">Due</th><th scope="col">Last error</th></tr></thead>
          <tbody>${queued.map((one) => html`<tr key=${one.id}>${job(one)}<td>${one.due_at ? html`<${When} at=${one.due_at} />` : "–"}</td><td class="wrap">${one.error ?? ""}</td></tr>`)}</tbody></table></div>`}</section>
    <section class="card" aria-labelledby="h-ended"><h2 id="h-ended">Ended</h2>
      ${ended.length === 0 ? html`<${Empty} title="Nothing has ended yet">Upload a video, and its jobs are listed here.<//>`
        : html`<div class="scroll-x" tabindex="0" role="group" aria-label="Ended"><table class="table"><thead><tr><th scope="col">Job</th><th scope="col">Type</th><th scope="col">State</th><th scope="col">Attempts</th><th scope="col">Took</th><th scope="col">Ended</th><th scope="col">Error</th></tr></thead>
          <tbody>${ended.map((one) => html`<tr key=${one.id}>${job(one)}<td class="num">${duration(Number(one.seconds ?? Number.NaN) * 1000)}</td><td><${When} at=${one.completed_at} /></td><td class="wrap">${one.status === "completed" ? "" : one.error ?? ""}</td></tr>`)}</tbody></table></div>
          ${ended.length === monitor.MOST && html`<p class="muted small">The latest ${monitor.MOST}; all of them are among the <a href="/jobs">jobs</a>.</p>`}`}</section>`}
  </div>`;
}
