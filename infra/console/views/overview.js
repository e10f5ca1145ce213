// How the whole is doing: readiness, what is live, what fails, throughput, queue time and success over a range.

import { jobs, whole } from "../api.js";
import { duration, number, percent } from "../lib/format.js";
import { setQuery, useQuery } from "../lib/router.js";
import { busiest, fold, rangeOf, RANGES, success } from "../lib/series.js";
import { usePolling, useRead } from "../lib/store.js";
import { html, useMemo, useState } from "../lib/ui.js";
import { Tag, Verdict } from "../parts/badge.js";
import { Chart } from "../parts/chart.js";
import { ActionButton } from "../parts/dialog.js";
import { Empty, Failed, Loading, pageHead, Stale } from "../parts/states-of-view.js";
import { column, figure, heading, table } from "../parts/table.js";
import { actionsOn } from "../parts/toasts.js";
import { When } from "../parts/when.js";

export const title = () => "Overview";

const EVERY_MS = 5000;
const DEFAULT = "1h";
const MOST_FAILURES = 5;

export default function Overview({ workspace }) {
  const range = rangeOf(useQuery().get("range"), DEFAULT);
  const [minutes, words] = RANGES[range];
  const scope = workspace.id;
  const stats = useRead(
    (signal) => whole.stats(scope, Math.min(minutes, 1440), signal),
    [scope, minutes],
  );
  const series = useRead((signal) => whole.series(scope, minutes, signal), [scope, minutes]);
  const failures = useRead((signal) => jobs.failures(scope, signal), [scope]);
  const health = useRead((signal) => whole.health(signal), []);
  for (const read of [stats, series, failures, health]) usePolling(read, EVERY_MS);
  const failed = [stats, series].find((read) => read.error);
  return html`<div class="page">
    ${pageHead(
      "Overview",
      workspace.name,
      html`<div class="segments" role="group" aria-label="Range">
        ${Object.entries(RANGES).map(
          ([word, [, long]]) => html`<button
            type="button"
            key=${word}
            aria-pressed=${word === range}
            title=${`The last ${long}`}
            onClick=${() => setQuery({ range: word === DEFAULT ? "" : word })}>
            ${word}
          </button>`,
        )}
      </div>`,
    )}
    <${Readiness} health=${health} backlog=${stats.error ? undefined : stats.value?.backlog} />
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
      html`<${Numbers}
        stats=${stats.value}
        series=${series.value}
        failures=${failures.value?.groups ?? []}
        words=${words}
        workspace=${workspace}
        refresh=${stats.refresh} />`
    }
  </div>`;
}

const CHECKS = {
  database: "Database",
  backlog: "Due jobs",
  last_tick: "Last tick",
};

/** The service's parts, and the due jobs of what is shown: of one workspace its own. */
function Readiness({ health, backlog }) {
  if (!health.value && health.error)
    return html`<${Failed}
      error=${health.error}
      retry=${health.refresh}
      what="Readiness could not be read" />`;
  return html`<section class="grid-cards" aria-label="Readiness">
    ${Object.entries(CHECKS).map(([name, label]) => {
      // a failed read leaves the last answer, which says nothing about now
      const check =
        name === "backlog" ? backlog : health.error ? undefined : health.value?.checks?.[name];
      return html`<div class="card figure" key=${name}>
        <p class="figure-name">${label} <${Verdict} verdict=${check?.verdict} /></p>
        <p class="muted small">${check?.detail ?? "\u00a0"}</p>
      </div>`;
    })}
  </section>`;
}

function Numbers({ stats, series, failures, words, workspace, refresh }) {
  const { live } = stats;
  const folded = useMemo(() => fold(series, live), [series, live]);
  const { at, totals, sums, depth, types } = folded;
  const lines = busiest(types);
  const colour = (index) => `--line-${index + 1}`;
  const shares = lines.map(([name, type], index) => ({
    name,
    colour: colour(index),
    values: type.completed.map((_, point) => {
      const share = success({ completed: type.completed[point], failed: type.failed[point] });
      return Number.isNaN(share) ? null : share;
    }),
  }));
  const isEmpty = types.size === 0;
  return html`
    <section class="grid-cards narrow" aria-label="Totals">
      ${figure(
        "Queued",
        number(live.queued),
        stats.backlog.oldest_at
          ? html`
            oldest due <${When} at=${stats.backlog.oldest_at} />
          `
          : "nothing is due",
      )}
      ${figure("Scheduled", number(live.scheduled), `${number(live.retrying)} retrying`)}
      ${figure("Running", number(live.running))}
      ${figure("Suspended", number(live.suspended))}
      ${figure("Completed", number(sums.completed), `${number(sums.enqueued)} enqueued`)}
      ${figure("Success", percent(success(sums)), `${number(sums.failed)} failed, ${number(sums.retried)} retried`)}
    </section>
    <${Pauses} stats=${stats} workspace=${workspace} refresh=${refresh} />
    <${Failures} groups=${failures} />
    ${
      isEmpty &&
      html`<section class="card">
        <${Empty} title=${`No job ran in the last ${words}`}>
          <p>Choose a longer range, or enqueue one:</p>
          <p><code>minutehand enqueue jobs.hello '{"name": "Ada"}'</code></p>
        <//>
      </section>`
    }
    ${
      !isEmpty &&
      html`<div class="charts">
        <section class="card" aria-labelledby="h-through">
          <h2 id="h-through">Throughput</h2>
          <${Chart}
            label="Jobs"
            at=${at}
            lines=${[
              { name: "Enqueued", values: totals.enqueued, colour: "--pending", dash: [4, 4] },
              { name: "Completed", values: totals.completed, colour: "--completed" },
              { name: "Failed", values: totals.failed, colour: "--failed" },
            ]} />
        </section>
        <section class="card" aria-labelledby="h-depth">
          <h2 id="h-depth">Queue depth</h2>
          <${Chart}
            label="Jobs that had not ended"
            at=${at}
            lines=${[{ name: "Not ended", values: depth, colour: "--processing" }]} />
        </section>
        <section class="card" aria-labelledby="h-wait">
          <h2 id="h-wait">Queue time, p95</h2>
          <${Chart}
            label="Queue time"
            at=${at}
            most=${100}
            format=${duration}
            lines=${lines.map(([name, type], index) => ({ name, values: type.queue, colour: colour(index) }))} />
        </section>
        <section class="card" aria-labelledby="h-success">
          <h2 id="h-success">Success</h2>
          <${Chart}
            label="Share that completed"
            at=${at}
            most=${1}
            format=${percent}
            lines=${shares} />
        </section>
      </div>`
    }
    <section class="card" aria-labelledby="h-types">
      <h2 id="h-types">By type</h2>
      <${ByType} types=${types} stats=${stats} />
    </section>
  `;
}

/** What fails most, by what went wrong. */
function Failures({ groups }) {
  if (groups.length === 0) return null;
  return html`<section class="card" aria-labelledby="h-failures">
    <h2 id="h-failures">What fails</h2>
    ${table(
      {
        label: "What fails",
        rows: groups.slice(0, MOST_FAILURES),
        key: (group) => `${group.job_type} ${group.error_fingerprint}`,
        cards: true,
      },
      [
        heading(
          "Error",
          "wrap",
          (group) => html`<a class="clamp" href=${`/jobs/${group.latest_id}`}>
            ${group.error_message ?? "no message"}
          </a>`,
        ),
        column("Type", (group) => group.job_type),
        column("Jobs", "num", (group) => number(group.jobs)),
        column("Latest", (group) => html`<${When} at=${group.last_at} />`),
      ],
    )}
    <p><a href="/jobs?grouped=1">All failures</a></p>
  </section>`;
}

const total = (values) => values.reduce((sum, value) => sum + value, 0);
const known = (value) => (Number.isFinite(value) ? `≈ ${duration(value)}` : "–");

function ByType({ types, stats }) {
  const rows = [...types]
    .sort(([a], [b]) => a.localeCompare(b))
    .map(([type, counts]) => ({
      type,
      completed: total(counts.completed),
      failed: total(counts.failed),
      retried: total(counts.retried),
      ...stats.types?.[type],
    }));
  if (rows.length === 0) return html`<${Empty} title="No job ran in this range" />`;
  return table({ label: "By type", rows, key: (row) => row.type }, [
    heading(
      "Type",
      "wrap",
      ({ type }) => html`<a href=${`/types/${encodeURIComponent(type)}`}>${type}</a>`,
    ),
    column("Completed", "num", (row) => number(total(types.get(row.type).completed))),
    column("Failed", "num", (row) => number(total(types.get(row.type).failed))),
    column("Success", "num", (row) => percent(success(row))),
    column("Queue p50", "num", (row) => known(row.queue?.p50_ms)),
    column("Queue p95", "num", (row) => known(row.queue?.p95_ms)),
    column("Run p50", "num", (row) => known(row.run?.p50_ms)),
    column("Run p95", "num", (row) => known(row.run?.p95_ms)),
  ]);
}

function Pauses({ stats, workspace, refresh }) {
  const pauses = stats.pauses ?? [];
  const own = pauses.find((pause) => pause.kind === "workspace" && pause.name === workspace.id);
  const others = pauses.filter((pause) => pause.kind !== "workspace");
  const [reason, setReason] = useState("");
  const act = actionsOn(refresh);
  const change = (paused) =>
    act(
      paused ? "Could not pause" : "Could not resume",
      () =>
        paused
          ? whole.pause(workspace.id, { body: { reason: reason || null } })
          : whole.resume(workspace.id, { body: {} }),
      `${workspace.name} is ${paused ? "paused" : "resumed"}`,
      paused && {
        title: `Pause ${workspace.name}?`,
        text: `No job of ${workspace.name} starts until you resume. Running jobs continue, new ones wait.`,
        action: "Pause the workspace",
        danger: true,
      },
    );
  const mayPause = workspace.role !== "member";
  return html`<section class="card bar" aria-label="Pause">
    <${Tag} tone=${own ? "waiting" : "pending"}>${own ? "Paused" : "Not paused"}<//>
    <span>
      ${own ? html`No job of ${workspace.name} starts${own.reason && `: ${own.reason}`}.` : ""}
      ${others.length > 0 && ` Paused besides: ${others.map((pause) => pause.job_type ?? pause.name).join(", ")}.`}
    </span>
    <span class="spacer"></span>
    ${
      mayPause &&
      !own &&
      html`
        <label class="field-inline">
          <span class="hidden">Reason for the pause</span>
          <input
            type="text"
            placeholder="Reason, if any"
            value=${reason}
            onInput=${(event) => setReason(event.target.value)} />
        </label>
        <${ActionButton} run=${() => change(true)}>Pause<//>
      `
    }
    ${
      mayPause &&
      own &&
      html`<${ActionButton} className="primary" run=${() => change(false)}>
        Resume
      <//>`
    }
    ${!mayPause && html`<span class="muted small">A manager may pause the workspace.</span>`}
  </section>`;
}
