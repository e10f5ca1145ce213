// One job: each region's state while it runs, then the answers side by side, and the receipts.

import { supabase } from "../../api.js";
import { counted } from "../../lib/format.js";
import { watchSession } from "../../lib/jobs.js";
import { useRead } from "../../lib/store.js";
import { html, useEffect, useState } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { ActionButton, confirm } from "../../parts/dialog.js";
import { Failed, Loading, Stale } from "../../parts/states-of-view.js";
import { notifyFailure } from "../../parts/toasts.js";
import { When } from "../../parts/when.js";
import NotFound from "../../views/not-found.js";
import { Answers } from "./answers.js";
import { beacon, isOver, STATES } from "./data.js";
import { Receipts } from "./receipts.js";

const UNPUBLISHED_MS = 1000; // before the queue has it, following it would be refused

export const title = () => "Benchmark";

/** @param {{id: string}} props */
export default function JobPage({ id }) {
  const found = useRead((signal) => beacon.job(id, signal), [id]);
  const [freshness, setFreshness] = useState("catching-up");
  const job = found.value;
  const published = Boolean(job?.queue_job_id); // its session begins with its job of the queue
  useEffect(() => {
    if (!published || !job) return undefined;
    /** @type {number | null} */
    let timer = null;
    const soon = () =>
      (timer ??= setTimeout(() => {
        timer = null;
        found.refresh();
      }, 250));
    // the job and its executions share a session
    const watch = watchSession(supabase(), `beacon:${job.id}`, {
      onEvent: soon,
      onChange: (state) => {
        setFreshness(state.freshness);
        soon();
      },
    });
    return () => {
      clearTimeout(/** @type {number} */ (timer));
      watch.close();
    };
  }, [job?.id, published]);
  useEffect(() => {
    if (job?.status !== "created") return undefined;
    const timer = setInterval(found.refresh, UNPUBLISHED_MS);
    return () => clearInterval(timer);
  }, [job?.status]);
  const issued = job?.executions.filter((one) => one.receipt_id).length ?? 0;
  const bundle = useRead(
    async (signal) => (issued > 0 ? beacon.bundle(id, signal) : null),
    [id, issued],
  );
  if (found.error?.status === 404 || found.error?.status === 422)
    return html`<${NotFound} what="job" />`;
  if (!job)
    return html`<div class="page"><h1 tabindex="-1">Benchmark</h1>${found.error ? html`<${Failed} error=${found.error} retry=${found.refresh} what="The job could not be read" />` : html`<${Loading} what="Reading the job" />`}</div>`;
  const cancel = async () => {
    if (
      !(await confirm({
        title: "Cancel this job?",
        text: `Of ${counted(job.executions.length, "execution")}, those that are completed keep their receipts.`,
        action: "Cancel the job",
        danger: true,
      }))
    )
      return;
    try {
      await beacon.cancel(job.id);
      found.refresh();
    } catch (error) {
      notifyFailure("Not cancelled", error);
    }
  };
  const { constraints } = job.spec;
  return html`<article class="page">
    <header class="page-head"><div><p class="crumb"><a href="/benchmarks">Benchmarks</a> / ${job.spec.benchmark.name}</p><h1 tabindex="-1" class="wrap">${job.jobspec_id} <span class="muted small">v${job.version}</span></h1></div><${Tag} tone=${STATES[job.status].tone}>${STATES[job.status].word}<//><span class="spacer"></span>${published && html`<${Freshness} value=${freshness} />`}
      ${job.queue_job_id && html`<a href=${`/jobs/${job.queue_job_id}`}>Its job</a>`}${!isOver(job.status) && html`<${ActionButton} className="danger" run=${cancel}>Cancel<//>`}</header>
    ${found.isStale && html`<${Stale} error=${found.error} retry=${found.refresh} />`}
    <p class="muted wrap">${counted(job.spec.questions.length, "question")} · ${counted(constraints.regions.length, "region")}, ${constraints.min_regions} needed · submitted <${When} at=${job.created_at} /></p>
    ${job.error && html`<p class="problem wrap" role="alert">${job.error}</p>`}
    <section class="card" aria-labelledby="h-executions"><h2 id="h-executions">Executions</h2>
      <div class="scroll-x" tabindex="0" role="group" aria-label="Executions"><table class="table"><thead><tr><th scope="col">Region</th><th scope="col">Model</th><th scope="col">State</th><th scope="col">Provider</th><th scope="col">Started</th><th scope="col" class="num">Receipt</th></tr></thead>
        <tbody>${job.executions.map((one) => html`<tr key=${one.id} data-region=${one.region}><th scope="row">${one.region}</th><td>${one.model}</td><td><${Tag} tone=${STATES[one.status].tone}>${STATES[one.status].word}<//>${one.error && html` <span class="problem wrap">${one.error}</span>`}</td><td>${one.provider ?? "–"}</td><td>${one.started_at ? html`<${When} at=${one.started_at} />` : "–"}</td><td class="num">${one.receipt_number ?? "–"}</td></tr>`)}</tbody></table></div></section>
    <${Answers} job=${job} />
    ${issued > 0 && html`<${Receipts} job=${job} bundle=${bundle} />`}
  </article>`;
}
