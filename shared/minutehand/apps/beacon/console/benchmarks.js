// Benchmarks: the jobs of a workspace, newest first, and what of them could not be queued.

import { counted } from "../../lib/format.js";
import { useLivePages } from "../../lib/live.js";
import { navigate } from "../../lib/router.js";
import { useRead } from "../../lib/store.js";
import { html, useState } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { ActionButton } from "../../parts/dialog.js";
import { Empty, Failed, Loading, Stale } from "../../parts/states-of-view.js";
import { notify, notifyFailure } from "../../parts/toasts.js";
import { When } from "../../parts/when.js";
import { beacon, STATES } from "./data.js";
import { SubmitDialog } from "./submit-dialog.js";

/** @import { Workspace } from "../../api.js" */
/** @import { ExecutionOfJob, ListedJob, Submitted } from "./routes.js" */

export const title = () => "Benchmarks";

/** @param {{workspace: Workspace}} props */
export default function Benchmarks({ workspace }) {
  const jobs = useLivePages(workspace.id, beacon.jobs);
  const dead = useRead((signal) => beacon.deadLetters(workspace.id, signal), [workspace.id]);
  const [writing, setWriting] = useState(false);
  const redrive = async () => {
    try {
      const { count } = await beacon.redrive(workspace.id);
      notify(`${counted(count, "message")} will be published again`);
      dead.refresh();
      jobs.refresh();
    } catch (error) {
      notifyFailure("Not redriven", error);
    }
  };
  const shown = jobs.value?.flatMap((page) => page.jobs) ?? [];
  return html`<div class="page">
    <header class="page-head"><h1 tabindex="-1">Benchmarks</h1><span class="spacer"></span><${Freshness} value=${jobs.freshness} />
      <button type="button" class="primary" onClick=${() => setWriting(true)}>New benchmark</button></header>
    ${
      dead.value &&
      dead.value.length > 0 &&
      html`<section class="card stack" aria-labelledby="h-dead"><div class="bar"><h2 id="h-dead">Not queued</h2><span class="spacer"></span><${ActionButton} run=${redrive}>Redrive ${counted(dead.value.length, "dead letter")}<//></div>
      <ul class="stack">${dead.value.map((one) => html`<li key=${one.id}><a href=${`/benchmarks/${one.job_id}`}><code>${one.message.jobspec_id ?? one.job_id}</code></a> <span class="problem wrap">${one.error}</span></li>`)}</ul></section>`
    }
    <section class="card" aria-label="Jobs">
      ${
        jobs.value
          ? html`${jobs.isStale && html`<${Stale} error=${jobs.error} retry=${jobs.refresh} />`}${
              shown.length === 0
                ? html`<${Empty} title="No benchmarks yet">Write down questions and regions; each region answers them, and each execution gets a signed receipt.<//>`
                : html`<div class="scroll-x" tabindex="0" role="group" aria-label="Jobs"><table class="table"><thead><tr><th scope="col">Job</th><th scope="col">State</th><th scope="col">Regions</th><th scope="col">Submitted</th></tr></thead>
          <tbody>${shown.map(
            (
              job,
            ) => html`<tr key=${job.id} data-job=${job.jobspec_id}><th scope="row" class="wrap"><a href=${`/benchmarks/${job.id}`}>${job.jobspec_id}</a> <span class="muted small">v${job.version}</span></th><td><${Tag} tone=${STATES[job.status].tone}>${STATES[job.status].word}<//></td>
            <td class="wrap">${regionsOf(job)
              .map(
                ([region, states]) =>
                  `${region} ${states.filter((state) => state === "completed").length}/${states.length}`,
              )
              .join(", ")}</td><td><${When} at=${job.created_at} /></td></tr>`,
          )}</tbody></table></div>
          ${jobs.more && html`<div class="actions start"><button type="button" class="quiet" onClick=${jobs.more}>Older jobs</button></div>`}`
            }`
          : jobs.error
            ? html`<${Failed} error=${jobs.error} retry=${jobs.refresh} what="The jobs could not be read" />`
            : html`<${Loading} what="Reading the jobs" />`
      }
    </section>
    ${writing && html`<${SubmitDialog} workspaceId=${workspace.id} onClose=${() => setWriting(false)} onSubmitted=${(/** @type {Submitted} */ job) => navigate(`/benchmarks/${job.id}`)} />`}
  </div>`;
}

/** The states of a job's executions by region, in the spec's order. */
function regionsOf(/** @type {ListedJob} */ job) {
  /** @type {Map<string, ExecutionOfJob["status"][]>} */
  const found = new Map();
  for (const { region, status } of job.executions)
    found.set(region, [...(found.get(region) ?? []), status]);
  return [...found];
}
