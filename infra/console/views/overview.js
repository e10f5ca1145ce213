// Overview of the system, with problems, live jobs, throughput, queue time and load.

import { jobs, session, engine } from "../api.js";
import { atLeast, duration, number, percent } from "../lib/format.js";
import { useQuery } from "../lib/router.js";
import { bucketize, topTypes, rangeOf, RANGES, success } from "../lib/series.js";
import { usePolling, useFetch, useStore } from "../lib/store.js";
import { html, useMemo } from "../lib/ui.js";
import { Chart } from "../parts/chart.js";
import { promptText } from "../lib/prompt.js";
import { ActionButton } from "../parts/dialog.js";
import { FAILURE_COLUMNS, failureKey } from "../parts/failures.js";
import { Holders } from "../parts/holders.js";
import { Empty, Failed, Loading, pageHead, Stale } from "../parts/states-of-view.js";
import { column, figure, heading, table } from "../parts/table.js";
import { createAction, describeResume } from "../parts/toasts.js";
import { When } from "../parts/when.js";

export const title = () => "Overview";

const POLL_MS = 5000;
const DEFAULT_RANGE = "1h";
const MAX_FAILURES = 5;

export default function Overview({ workspace, user }) {
  const range = rangeOf(useQuery().get("range"), DEFAULT_RANGE);
  const [minutes, words] = RANGES[range];
  const scope = workspace.id;
  const stats = useFetch((signal) => engine.stats(scope, minutes, signal), [scope, minutes]);
  const series = useFetch((signal) => engine.series(scope, minutes, signal), [scope, minutes]);
  const explained = useFetch((signal) => engine.explain(scope, signal), [scope]);
  const failures = useFetch((signal) => jobs.failures(scope, signal), [scope]);
  for (const read of [stats, series, failures, explained]) usePolling(read, POLL_MS);
  const failed = [stats, series].find((read) => read.error);
  return html`<div class="page">
    ${pageHead(
      "Overview",
      workspace.name,
      html`<${Pause} stats=${stats} workspace=${workspace} />`,
      html`<nav class="groups" aria-label="Range">
        ${Object.entries(RANGES).map(
          ([word, [, long]]) => html`<a
            key=${word}
            class="group"
            href=${`/overview?range=${word}`}
            aria-current=${word === range ? "true" : undefined}
            title=${`The last ${long}`}>
            ${word}
          </a>`,
        )}
      </nav>`,
    )}
    <${Holders} holders=${explained.value?.holders} />
    <${Failures} groups=${failures.value?.groups ?? []} />
    ${
      failed &&
      (failed.isStale
        ? html`<${Stale} error=${failed.error} retry=${failed.refresh} />`
        : html`<${Failed}
          error=${failed.error}
          retry=${failed.refresh}
          what="The statistics could not be read" />`)
    }
    ${!failed && !(stats.value && series.value) && html`<${Loading} what="Reading statistics" />`}
    ${
      stats.value &&
      series.value &&
      html`<${Stats} stats=${stats.value} series=${series.value} words=${words} />`
    }
    ${user.isOperator && html`<${ByTenant} minutes=${minutes} />`}
  </div>`;
}

/** Button that pauses or resumes the workspace's jobs. */
function Pause({ stats, workspace }) {
  const act = createAction(stats.refresh);
  if (!stats.value || workspace.role === "member") return null;
  const { name, id } = workspace;
  const isPaused = stats.value.pauses?.some((one) => one.kind === "workspace" && one.name === id);
  const pause = async () => {
    const reason = await promptText({
      title: `Pause ${name}?`,
      text: `No job of ${name} starts until you resume. Running jobs continue, new ones wait.`,
      field: "Reason, if any",
      action: "Pause the workspace",
      danger: true,
    });
    if (reason === null) return;
    await act(
      "Could not pause",
      () => engine.pause(id, { body: { reason: reason || null } }),
      `${name} is paused`,
    );
  };
  const resume = () =>
    act("Could not resume", () => engine.resume(id, { body: {} }), describeResume(name));
  return html`<${ActionButton} className=${isPaused ? "primary" : "quiet"}
    run=${isPaused ? resume : pause}>
    ${isPaused ? "Resume" : "Pause jobs"}
  <//>`;
}

function Stats({ stats, series, words }) {
  const { live } = stats;
  const { at, totals, sums, types } = useMemo(() => bucketize(series), [series]);
  const lines = topTypes(types).map(([name, type], index) => ({
    name,
    colour: `--line-${index + 1}`,
    values: type.queue,
  }));
  const oldest = stats.backlog.oldest_at;
  const due = oldest ? html`oldest due <${When} at=${oldest} />` : "nothing is due";
  const lost = sums.lost > 0 ? `, ${number(sums.lost)} lost with a worker` : "";
  return html`
    ${
      stats.late_since &&
      html`<p class="notice">
        Completed, Failed and Success do not yet include jobs that ended after
        <${When} at=${stats.late_since} />.
      </p>`
    }
    <section class="grid-cards" aria-label="Totals">
      ${figure("Queued", atLeast(live.queued), due)}
      ${figure("Scheduled", atLeast(live.scheduled), `${atLeast(live.retrying)} retrying`)}
      ${figure("Running", atLeast(live.running), `${atLeast(live.suspended)} suspended`)}
      ${figure("Completed", number(sums.completed), `${number(sums.enqueued)} enqueued`)}
      ${figure("Failed", number(sums.failed), `${number(sums.retried)} retried${lost}`, sums.failed > 0)}
      ${figure("Success", percent(success(sums)), `of the last ${words}`, success(sums) < HEALTHY_SUCCESS)}
    </section>
    ${
      types.size === 0
        ? html`<section class="card">
          <${Empty} title=${`No job ran in the last ${words}`}>
            <p>Choose a longer range, or <a href="/jobs">enqueue one</a>.</p>
          <//>
        </section>`
        : html`<div class="charts">
          ${chart("h-through", "Throughput", {
            label: "Jobs",
            at,
            lines: [
              { name: "Enqueued", values: totals.enqueued, colour: "--pending", dash: [4, 4] },
              { name: "Completed", values: totals.completed, colour: "--completed" },
              { name: "Failed", values: totals.failed, colour: "--failed" },
            ],
          })}
          ${chart("h-wait", "Queue time, p95", {
            label: "Queue time",
            at,
            minTop: 100,
            format: duration,
            lines,
          })}
        </div>`
    }
  `;
}

const HEALTHY_SUCCESS = 0.95; // minimum share of completed jobs, shown as a problem below it

const chart = (id, name, more) =>
  html`<section class="card" aria-labelledby=${id}>
    <h2 id=${id}>${name}</h2>
    <${Chart} ...${more} />
  </section>`;

/** Groups with the most failed jobs. */
function Failures({ groups }) {
  if (groups.length === 0) return null;
  const largest = groups.slice(0, MAX_FAILURES);
  return html`<section class="card" aria-labelledby="h-failures">
    <h2 id="h-failures">Failures</h2>
    ${table({ label: "Failures", rows: largest, key: failureKey, cards: true }, FAILURE_COLUMNS)}
    <p><a href="/jobs?grouped=1">All failures</a></p>
  </section>`;
}

const loadColumns = (max) => [
  column(
    "Jobs",
    "num",
    (row) =>
      html`<meter max=${max} value=${row.jobs} aria-hidden="true"></meter> ${number(row.jobs)}`,
  ),
  column("Failed", "num", (row) =>
    row.failed > 0 ? html`<span class="problem">${number(row.failed)}</span>` : "0",
  ),
];

/** Load of each tenant, shown to staff. */
function ByTenant({ minutes }) {
  const { workspaces } = useStore(session);
  const read = useFetch((signal) => engine.stats(null, minutes, signal), [minutes]);
  usePolling(read, 3 * POLL_MS);
  const rows = (read.value?.tenants ?? []).map((one) => ({ ...one, jobs: one.enqueued }));
  if (rows.length === 0) return null;
  const nameOf = (id) => workspaces.find((one) => one.id === id)?.name ?? id;
  return html`<section class="card" aria-labelledby="h-tenants">
    <h2 id="h-tenants">Load by tenant</h2>
    ${table({ label: "Load by tenant", rows, key: (row) => row.workspace_id }, [
      heading("Workspace", "wrap", (row) => nameOf(row.workspace_id)),
      ...loadColumns(Math.max(1, rows[0].jobs)),
      column("Running", "num", (row) => number(row.running)),
    ])}
  </section>`;
}
