// One run: each region's progress while it is measured, then the picture, the figures, the receipts.

import { jobs, supabase } from "../../api.js";
import { number } from "../../lib/format.js";
import { watchSession } from "../../lib/jobs.js";
import { useRead } from "../../lib/store.js";
import { html, useEffect, useState } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { ActionButton, confirm } from "../../parts/dialog.js";
import { JobProgress } from "../../parts/job-progress.js";
import { Failed, Loading, Stale } from "../../parts/states-of-view.js";
import { tellFailure } from "../../parts/toasts.js";
import { When } from "../../parts/when.js";
import NotFound from "../../views/not-found.js";
import { limits } from "./benchmarks.js";
import { beacon, isOver, latency, STATES, VERDICTS } from "./data.js";
import { Deliveries } from "./deliveries.js";
import { Distribution } from "./distribution.js";
import { Receipts } from "./receipts.js";
import { payloadOf } from "./verification.js";

export const title = () => "Benchmark";

export default function RunPage({ id }) {
  const found = useRead((signal) => beacon.run(id, signal), [id]);
  const [freshness, setFreshness] = useState("catching-up");
  useEffect(() => {
    let timer = null;
    const soon = () => (timer ??= setTimeout(() => { timer = null; found.refresh(); }, 250));
    // the run's job and its regions' share a session
    const watch = watchSession(supabase(), `beacon:${id}`, { onEvent: soon, onChange: (state) => { setFreshness(state.freshness); soon(); } });
    return () => { clearTimeout(timer); watch.close(); };
  }, [id]);
  const run = found.value;
  const issued = run?.regions.filter((region) => region.receipt_number !== null).length ?? 0;
  const spec = useRead(async (signal) => (run ? beacon.spec(run.spec_id, signal) : null), [run?.spec_id]);
  const bundle = useRead(async (signal) => (issued > 0 ? beacon.bundle(id, signal) : null), [id, issued, run?.receipt_number]);
  if (found.error?.status === 404 || found.error?.status === 422) return html`<${NotFound} what="run" />`;
  if (!run) return html`<div class="page"><h1 tabindex="-1">Benchmark</h1>${found.error ? html`<${Failed} error=${found.error} retry=${found.refresh} what="The run could not be read" />` : html`<${Loading} what="Reading the run" />`}</div>`;
  const cancel = async () => {
    if (!(await confirm({ title: "Cancel this run?", text: "Regions that are finished keep their receipts; the run gets none.", action: "Cancel the run", danger: true }))) return;
    try {
      await jobs.cancel(run.job_id);
    } catch (error) {
      tellFailure("Not cancelled", error);
    }
  };
  const { word, tone } = STATES[run.status];
  const thresholds = spec.value?.spec.thresholds;
  const measured = measuredOf(bundle.value, run.regions);
  return html`<article class="page">
    <header class="page-head"><div><p class="crumb"><a href="/benchmarks">Benchmarks</a> / v${run.version}</p><h1 tabindex="-1">${run.name}</h1></div><${Tag} tone=${tone}>${word}<//><span class="spacer"></span><${Freshness} value=${freshness} />
      ${run.job_id && html`<a href=${`/jobs/${run.job_id}`}>Its job</a>`}${!isOver(run.status) && html`<${ActionButton} className="danger" run=${cancel}>Cancel<//>`}</header>
    ${found.isStale && html`<${Stale} error=${found.error} retry=${found.refresh} />`}
    ${spec.value && html`<p class="muted wrap"><code>${spec.value.spec.target.method} ${spec.value.spec.target.url}</code> · ${number(spec.value.spec.samples)} samples per region, ${number(spec.value.spec.concurrency)} at once · thresholds: ${limits(thresholds)} · started <${When} at=${run.created_at} /></p>`}
    ${!isOver(run.status) && html`<section class="card stack" aria-labelledby="h-live"><h2 id="h-live">Measuring</h2>
      ${run.regions.map((region) => html`<div key=${region.region} data-region=${region.region}><div class="bar"><span class="strong">${region.region}</span><${State} of=${region} /></div>
        <${JobProgress} job=${{ status: region.status === "running" ? "processing" : region.status, progress: region.progress }} /></div>`)}</section>`}
    ${measured.some(({ statistics }) => statistics.latency_us) && html`<section class="card" aria-labelledby="h-picture"><h2 id="h-picture">How long answers took</h2><${Distribution} regions=${measured} p95Ms=${thresholds?.p95_ms ?? null} /></section>`}
    <${Figures} regions=${run.regions} />
    ${run.receipt_number !== null || issued > 0 ? html`<${Receipts} run=${run} bundle=${bundle} /><${Deliveries} runId=${id} issued=${issued + (run.receipt_number === null ? 0 : 1)} />` : isOver(run.status) && html`<p class="muted">No region was measured to its end, so there is no receipt.</p>`}
  </article>`;
}

/** The regions whose samples are in a bundle, in the run's order. */
function measuredOf(bundle, regions) {
  const found = (bundle?.receipts ?? []).filter((receipt) => receipt.samples).map(({ jws, samples }) => {
    const { region_requested: region, statistics } = payloadOf(jws);
    return { region, statistics, samples };
  });
  return regions.map((one) => found.find(({ region }) => region === one.region)).filter(Boolean);
}

const State = ({ of }) => html`<${Tag} tone=${STATES[of.status].tone}>${STATES[of.status].word}<//>`;

function Figures({ regions }) {
  const columns = ["p50", "p75", "p90", "p95", "p99", "max"];
  return html`<section class="card" aria-labelledby="h-figures"><h2 id="h-figures">Figures</h2>
    <div class="scroll-x" tabindex="0" role="group" aria-label="Figures"><table class="table"><thead><tr><th scope="col">Region</th><th scope="col">State</th><th scope="col">Measured from</th>${columns.map((name) => html`<th key=${name} scope="col" class="num">${name}</th>`)}<th scope="col" class="num">Errors</th><th scope="col">Thresholds</th></tr></thead>
      <tbody>${regions.map((one) => html`<tr key=${one.region}><th scope="row" style=${{ whiteSpace: "nowrap" }}>${one.region}</th><td><${State} of=${one} />${one.error && html` <span class="problem wrap">${one.error}</span>`}</td><td>${one.measured_from ?? "–"}</td>
        ${columns.map((name) => html`<td key=${name} class="num">${latency(one.statistics?.latency_us?.[name])}</td>`)}
        <td class="num">${one.statistics ? html`${number(one.statistics.errors)} of ${number(one.statistics.count)}${one.statistics.errors > 0 && html`<div class="muted small">${errors(one.statistics)}</div>`}` : "–"}</td>
        <td>${VERDICTS[one.verdict] ? html`<${Tag} tone=${VERDICTS[one.verdict].tone}>${VERDICTS[one.verdict].word}<//>` : "–"}</td></tr>`)}</tbody></table></div>
    <p class="muted small">Percentiles by nearest rank over the answers that were good.</p>
  </section>`;
}

const errors = ({ outcomes }) => Object.entries(outcomes).filter(([word]) => !word.startsWith("ok:")).map(([word, count]) => html`<div key=${word}>${word.replace(":", " ").replace("_", " ")} × ${number(count)}</div>`);
