// Benchmarks: the specs of a workspace, each with a button that measures it, and the latest runs.

import { supabase } from "../../api.js";
import { counted, number } from "../../lib/format.js";
import { watchWorkspace } from "../../lib/jobs.js";
import { navigate } from "../../lib/router.js";
import { useRead } from "../../lib/store.js";
import { html, useEffect, useState } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { ActionButton } from "../../parts/dialog.js";
import { Empty, Failed, Loading, Stale } from "../../parts/states-of-view.js";
import { tell, tellFailure } from "../../parts/toasts.js";
import { When } from "../../parts/when.js";
import { beacon, latency, STATES, VERDICTS } from "./data.js";
import { SpecDialog } from "./spec-dialog.js";

export const title = () => "Benchmarks";

/** The newest version of each name. */
const newest = (specs) => [...new Map([...specs].sort((a, b) => a.version - b.version).map((spec) => [spec.name, spec])).values()].sort((a, b) => (a.name < b.name ? -1 : 1));

export default function Benchmarks({ workspace }) {
  const specs = useRead((signal) => beacon.specs(workspace.id, signal), [workspace.id]);
  const [pages, setPages] = useState([undefined]);
  const runs = useRead((signal) => Promise.all(pages.map((after) => beacon.runs(workspace.id, after, signal))), [workspace.id, pages.length]);
  const [writing, setWriting] = useState(null);
  const [freshness, setFreshness] = useState("catching-up");
  useEffect(() => {
    let timer = null;
    const soon = () => (timer ??= setTimeout(() => { timer = null; runs.refresh(); }, 400));
    const watch = watchWorkspace(supabase(), workspace.id, { onEvent: soon, onResync: ({ first }) => (first ? undefined : soon()), onChange: (changed) => setFreshness(changed.freshness) });
    return () => { clearTimeout(timer); watch.close(); };
  }, [workspace.id]);
  const start = async (spec) => {
    try {
      navigate(`/benchmarks/${(await beacon.start(spec.id)).id}`);
    } catch (error) {
      tellFailure("Not started", error);
    }
  };
  const read = (what, found, show) => (found.value ? html`${found.isStale && html`<${Stale} error=${found.error} retry=${found.refresh} />`}${show(found.value)}`
    : found.error ? html`<${Failed} error=${found.error} retry=${found.refresh} what=${`The ${what} could not be read`} />` : html`<${Loading} what=${`Reading the ${what}`} />`);
  const shown = runs.value?.flatMap((page) => page.runs) ?? [];
  const more = runs.value?.at(-1)?.next;
  return html`<div class="page">
    <header class="page-head"><h1 tabindex="-1">Benchmarks</h1><span class="spacer"></span><${Freshness} value=${freshness} />
      <button type="button" class="primary" onClick=${() => setWriting({ from: null })}>New benchmark</button></header>
    <section class="card" aria-labelledby="h-specs"><h2 id="h-specs">What to measure</h2>
      ${read("benchmarks", specs, ({ specs: found }) => (found.length === 0 ? html`<${Empty} title="No benchmarks yet">Name an endpoint and its regions; each run is measured, signed, and can be verified by anybody.<//>`
        : html`<ul class="stack">${newest(found).map((one) => html`<li key=${one.id} class="bar" data-spec=${one.name}>
          <div class="grow" style=${{ minWidth: "min(16rem, 100%)" }}><p><span class="strong">${one.name}</span> <span class="muted small">v${one.version}</span></p>
            <p class="wrap"><code>${one.spec.target.method} ${one.spec.target.url}</code></p>
            <p class="muted small">${one.spec.regions.join(", ")} · ${counted(one.spec.samples, "sample")} · thresholds: ${limits(one.spec.thresholds)}</p></div>
          <span class="actions"><button type="button" class="quiet" onClick=${() => setWriting({ from: one })}>Change<span class="hidden"> ${one.name}</span></button><${ActionButton} run=${() => start(one)}>Measure<span class="hidden"> ${one.name}</span><//></span></li>`)}</ul>`))}
    </section>
    <section class="card" aria-labelledby="h-runs"><h2 id="h-runs">Runs</h2>
      ${read("runs", runs, () => (shown.length === 0 ? html`<${Empty} title="Nothing measured yet" />`
        : html`<div class="scroll-x" tabindex="0" role="group" aria-label="Runs"><table class="table"><thead><tr><th scope="col">Run</th><th scope="col">State</th><th scope="col">Thresholds</th><th scope="col">95 % within</th><th scope="col" class="num">Receipt</th><th scope="col">Started</th></tr></thead>
          <tbody>${shown.map((run) => html`<tr key=${run.id}><th scope="row"><a href=${`/benchmarks/${run.id}`}>${run.name}</a> <span class="muted small">v${run.version}</span></th><td><${Tag} tone=${STATES[run.status].tone}>${STATES[run.status].word}<//></td><td><${Verdict} of=${run} /></td>
            <td class="wrap">${run.regions.filter((region) => region.statistics?.latency_us).map((region) => `${region.region} ${latency(region.statistics.latency_us.p95)}`).join(", ") || "–"}</td><td class="num">${run.receipt_number ?? "–"}</td><td><${When} at=${run.created_at} /></td></tr>`)}</tbody></table></div>
          ${more && html`<div class="actions start"><button type="button" class="quiet" onClick=${() => setPages([...pages, more])}>Older runs</button></div>`}`))}
    </section>
    ${writing && html`<${SpecDialog} workspaceId=${workspace.id} from=${writing.from} onClose=${() => setWriting(null)} onWritten=${(made) => { setWriting(null); tell(`${made.name}, version ${made.version}, is written`); specs.refresh(); }} />`}
  </div>`;
}

export const limits = ({ p95_ms: p95, error_rate: rate }) => [p95 === null ? null : `95 % within ${number(p95)} ms`, rate === null ? null : `errors at most ${number(rate * 100)} %`].filter(Boolean).join(", ") || "none";

/** Whether the regions that were measured kept their thresholds. */
function Verdict({ of }) {
  const verdicts = of.regions.map((region) => region.verdict).filter((one) => one && one !== "none");
  if (verdicts.length === 0) return "–";
  const { word, tone } = VERDICTS[verdicts.includes("failed") ? "failed" : "passed"];
  return html`<${Tag} tone=${tone}>${word}<//>`;
}
