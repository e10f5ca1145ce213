// Workers as people on call see them: version, slots, last seen, and what each is running.

import { operator } from "../api.js";
import { counted, number } from "../lib/format.js";
import { usePolling, useRead } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { Tag } from "../parts/badge.js";
import { Empty, Failed, Loading, Stale } from "../parts/states-of-view.js";
import { Took, When } from "../parts/when.js";

/** @import { WorkerLine } from "../api.js" */

export const title = () => "Workers";

const EVERY_MS = 3000;
/** @type {Record<string, [tone: string, word: string, hint: string]>} */
const STATES = {
  busy: ["processing", "Busy", "It runs jobs."],
  idle: ["completed", "Idle", "It has free slots and asks for jobs."],
  ended: [
    "cancelled",
    "Ended",
    "Its run is over; the next one begins with the next wake-up or minute.",
  ],
  silent: ["waiting", "Silent", "Not seen for three minutes, and did not report that it ended."],
  lost: ["failed", "Lost", "Every lease it holds has expired: its jobs are given to others."],
};

export default function Workers() {
  const read = useRead((signal) => operator.workers(60, signal), []);
  usePolling(read, EVERY_MS);
  return html`<div class="page"><header class="page-head"><h1 tabindex="-1">Workers</h1><span class="muted">of the last hour</span></header>
    ${read.isStale && html`<${Stale} error=${read.error} retry=${read.refresh} />`}
    ${!read.value ? (read.error ? html`<${Failed} error=${read.error} retry=${read.refresh} what="The workers could not be read" />` : html`<${Loading} what="Reading workers" />`) : html`<${List} workers=${read.value.workers} />`}
  </div>`;
}

/** @param {{workers: WorkerLine[]}} props */
function List({ workers }) {
  if (workers.length === 0)
    return html`<section class="card"><${Empty} title="No worker in the last hour">Jobs wait until one runs. Check the schedule that starts it, and its log.<//></section>`;
  const busy = workers.reduce((sum, one) => sum + one.busy_slots, 0);
  const free = workers.reduce(
    (sum, one) => sum + (one.state === "busy" || one.state === "idle" ? (one.free_slots ?? 0) : 0),
    0,
  );
  return html`<section class="card" aria-labelledby="h-workers"><div class="bar"><h2 id="h-workers">${counted(workers.length, "worker")}</h2><span class="muted small num">${number(busy)} busy, ${number(free)} free slots</span></div>
    <div class="scroll-x" tabindex="0" role="group" aria-label="Workers"><table class="table"><thead><tr><th scope="col">Worker</th><th scope="col">State</th><th scope="col">Version</th><th scope="col" class="num">Slots</th><th scope="col">Last seen</th><th scope="col" class="num">Runs</th><th scope="col" class="num">Leased</th><th scope="col">Running now</th></tr></thead>
    <tbody>${workers.map((one) => {
      const [tone, word, hint] = STATES[one.state] ?? ["pending", one.state, ""];
      return html`<tr key=${one.worker_id} data-worker=${one.worker_id}><th scope="row" class="mono small wrap">${one.worker_id}${one.job_types && html`<span class="muted"> ${counted(one.job_types.length, "type")}</span>`}</th>
        <td title=${hint}><${Tag} tone=${tone}>${word}<//></td><td>${one.version ?? "–"}</td><td class="num">${number(one.busy_slots)} / ${!one.free_slots && one.busy_slots === 0 ? "–" : number(one.busy_slots + (one.free_slots ?? 0))}</td>
        <td><${When} at=${one.seen_at} /></td><td class="num">${number(one.runs)}</td><td class="num">${number(Number(one.leased ?? 0))}</td>
        <td>${one.running.length === 0 ? html`<span class="muted">nothing</span>` : html`<ul class="running">${one.running.map((job) => html`<li key=${job.job_id}><a href=${`/jobs/${job.job_id}`}>${job.job_type}</a> <span class="muted">${job.workspace_name ?? ""}</span> <${Took} from=${job.leased_at} /></li>`)}</ul>`}</td></tr>`;
    })}</tbody></table></div></section>`;
}
