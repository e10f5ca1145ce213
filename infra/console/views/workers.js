// Workers as people on call see them: version, slots, last seen, and what each is running.

import { operator } from "../api.js";
import { codeOf, counted, number } from "../lib/format.js";
import { usePolling, useRead } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { WorkerState } from "../parts/badge.js";
import { Empty, Stale } from "../parts/states-of-view.js";
import { column, heading, table } from "../parts/table.js";
import { Took, When } from "../parts/when.js";
import { Unread } from "../parts/unread.js";
import { pageHead } from "../parts/page-head.js";

/** @import { WorkerLine } from "../api.js" */

export const title = () => "Workers";

const EVERY_MS = 3000;
export default function Workers() {
  const read = useRead((signal) => operator.workers(60, signal), []);
  usePolling(read, EVERY_MS);
  return html`<div class="page">
    ${pageHead("Workers", "of the last hour")}
    ${read.isStale && html`<${Stale} error=${read.error} retry=${read.refresh} />`}
    ${
      !read.value
        ? html`<${Unread} of=${read} what="the workers" />`
        : html`<${List} workers=${read.value.workers} />`
    }
  </div>`;
}

/** @param {{workers: WorkerLine[]}} props */
function List({ workers }) {
  if (workers.length === 0)
    return html`<section class="card">
      <${Empty} title="No worker in the last hour">
        Jobs wait until one runs. Check the schedule that starts it, and its log.
      <//>
    </section>`;
  const busy = workers.reduce((sum, one) => sum + one.busy_slots, 0);
  const free = workers.reduce((sum, one) => sum + (one.state === "alive" ? one.free_slots : 0), 0);
  return html`<section class="card" aria-labelledby="h-workers">
    <div class="bar">
      <h2 id="h-workers">${counted(workers.length, "worker")}</h2>
      <span class="muted small num">
        ${busy + free === 0 ? "all idle" : `${number(busy)} of ${number(busy + free)} slots busy`}
      </span>
    </div>
    ${table(
      {
        label: "Workers",
        rows: workers,
        key: (one) => one.worker_id,
        attributes: (one) => ({ "data-worker": one.worker_id }),
      },
      [
        heading(
          "Worker",
          "mono small wrap",
          (one) => html`
            ${one.worker_id}
            ${
              one.job_types &&
              html`<span class="muted"> ${counted(one.job_types.length, "type")}
              </span>`
            }
          `,
        ),
        column("State", (one) => html`<${WorkerState} state=${one.state} />`),
        column(
          "Version",
          (one) => html`
            ${one.version ?? "–"}
            ${one.commit && html` <span class="mono small muted">${codeOf(one)}</span>`}
          `,
        ),
        column("Slots", "num", ({ busy_slots: taken, free_slots: open }) =>
          taken + open === 0
            ? html`<span class="muted">idle</span>`
            : `${number(taken)} / ${number(taken + open)}`,
        ),
        column("Last seen", (one) => html`<${When} at=${one.seen_at} />`),
        column("Runs", "num", (one) => number(one.runs)),
        column("Leased", "num", (one) => number(Number(one.leased ?? 0))),
        column("Running now", (one) =>
          one.running.length === 0
            ? html`<span class="muted">nothing</span>`
            : html`<ul class="running">
              ${one.running.map(
                (job) => html`<li key=${job.job_id}>
                  <a href=${`/jobs/${job.job_id}`}>${job.job_type}</a>
                  ${" "}
                  <span class="muted">${job.workspace_name ?? ""}</span> <${Took}
                    from=${job.leased_at} />
                </li>`,
              )}
            </ul>`,
        ),
      ],
    )}
  </section>`;
}
