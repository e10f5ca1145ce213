// How the whole is doing: readiness, what is live, throughput, depth, queue time and success over a range.

import { duration, number, percent } from "../lib/format.js";
import { setQuery, useQuery } from "../lib/router.js";
import { busiest, fold, rangeOf, RANGES, success } from "../lib/series.js";
import { usePolling, useRead } from "../lib/store.js";
import { html, useMemo, useState } from "../lib/ui.js";
import { jobs } from "../api.js";
import { operations } from "../operations.js";
import { Tag, Verdict } from "../parts/badge.js";
import { Chart } from "../parts/chart.js";
import { ActionButton } from "../parts/dialog.js";
import { figure } from "../parts/facts.js";
import { Empty, Failed, Loading, Stale } from "../parts/states-of-view.js";
import { actionsOn } from "../parts/toasts.js";
import { When } from "../parts/when.js";
import { internalSwitch, pageHead } from "../parts/page-head.js";

/** @import { Workspace } from "../api.js" */
/** @import { Health, MessageNumbers, Stats } from "../operations.js" */
/** @import { Backlog, Percentiles } from "../lib/jobs/types.js" */
/** @import { Lines, Series } from "../lib/series.js" */
/** @import { Read } from "../lib/store.js" */

export const title = () => "Overview";

const EVERY_MS = 5000;
const DEFAULT = "1h";

/** @param {{workspace: Workspace}} props */
export default function Operations({ workspace }) {
  const query = useQuery();
  const range = rangeOf(query.get("range"), DEFAULT);
  const [minutes, words] = RANGES[range];
  const isInternal = query.get("internal") === "1";
  const scope = workspace.id;
  const stats = useRead(
    (signal) => operations.stats(scope, Math.min(minutes, 1440), signal),
    [scope, minutes],
  );
  const series = useRead(
    (signal) => operations.series(scope, minutes, isInternal, signal),
    [scope, minutes, isInternal],
  );
  // of one workspace as its list counts them; the statistics count internal types as well
  const counts = useRead(
    () => (scope && !isInternal ? jobs.counts(scope) : Promise.resolve(null)),
    [scope, isInternal],
  );
  const health = useRead((signal) => operations.health(signal), []);
  for (const read of [stats, series, counts, health]) usePolling(read, EVERY_MS);
  const failed = [stats, series].find((read) => read.error);
  return html`<div class="page">
    ${pageHead(
      "Overview",
      workspace.name,
      internalSwitch(isInternal),
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
    ${failed && failed.isStale && html`<${Stale} error=${failed.error} retry=${failed.refresh} />`}
    ${
      failed &&
      !failed.value &&
      html`<${Failed}
        error=${failed.error}
        retry=${failed.refresh}
        what="The statistics could not be read" />`
    }
    ${!failed && !(stats.value && series.value) && html`<${Loading} what="Reading statistics" />`}
    ${
      stats.value &&
      series.value &&
      html`<${Numbers}
        live=${counts.value?.states ?? stats.value.live}
        stats=${stats.value}
        series=${series.value}
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
  storage: "Storage",
};

/**
 * The service's parts, and the due jobs of what is shown: of one workspace its own.
 *
 * @param {{health: Read<Health>, backlog?: Backlog}} props
 */
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
        ${name === "backlog" && backlog?.fix && html`<p class="small">To do: ${backlog.fix}</p>`}
      </div>`;
    })}
  </section>`;
}

/** @param {{live: Stats["live"], stats: Stats, series: Series, words: string, workspace: Workspace, refresh: () => void}} props */
function Numbers({ live, stats, series, words, workspace, refresh }) {
  const folded = useMemo(() => fold(series), [series]);
  const { at, totals, sums, depth, types } = folded;
  const lines = busiest(types);
  const colour = (/** @type {number} */ index) => `--line-${index + 1}`;
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
        stats.oldest_due_at
          ? html`
            oldest due <${When} at=${stats.oldest_due_at} />
          `
          : "nothing is due",
      )}
      ${figure("Scheduled", number(live.scheduled), `${number(live.retrying)} retrying`)}
      ${figure("Running", number(live.running))}
      ${figure("Suspended", number(live.suspended))}
      ${figure("Completed", number(sums.completed), `${number(sums.enqueued)} enqueued`)}
      ${figure("Success", percent(success(sums)), `${number(sums.failed)} failed, ${number(sums.retried)} retried`)}
      ${figure("Lost attempts", number(sums.lost), `in the last ${words}`)}
    </section>
    <${Pauses} stats=${stats} workspace=${workspace} refresh=${refresh} />
    ${stats.messages && html`<${Messages} messages=${stats.messages} />`}
    ${
      isEmpty &&
      html`<section class="card">
        <${Empty} title=${`No job ran in the last ${words}`}>
          Choose a longer range, or enqueue one.
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

/** @type {Array<[name: keyof Percentiles, word: string]>} */
const PERCENTILES = [
  ["p50_ms", "p50"],
  ["p95_ms", "p95"],
  ["p99_ms", "p99"],
];
const total = (/** @type {number[]} */ values) => values.reduce((sum, value) => sum + value, 0);

/** @param {{types: Map<string, Lines>, stats: Stats}} props */
function ByType({ types, stats }) {
  const rows = [...types].sort(([a], [b]) => a.localeCompare(b));
  if (rows.length === 0) return html`<${Empty} title="No job ran in this range" />`;
  return html`
    <div class="scroll-x" tabindex="0" role="group" aria-label="By type">
      <table class="table">
        <thead>
          <tr>
            <th scope="col" rowspan="2">Type</th>
            ${["Completed", "Failed", "Retried", "Success"].map(
              (word) => html`<th scope="col" rowspan="2" class="num" key=${word}>
                ${word}
              </th>`,
            )}
            <th scope="colgroup" colspan="3" class="num group-head">Queue time</th>
            <th scope="colgroup" colspan="3" class="num group-head">Run time</th>
          </tr>
          <tr>
            ${["queue", "run"].flatMap((name) =>
              PERCENTILES.map(
                ([, word]) => html`<th scope="col" class="num" key=${`${name} ${word}`}>
                  ${word}
                </th>`,
              ),
            )}
          </tr>
        </thead>
        <tbody>
          ${rows.map(([type, counts]) => {
            const line = {
              completed: total(counts.completed),
              failed: total(counts.failed),
              retried: total(counts.retried),
            };
            const known = stats.types?.[type];
            return html`<tr key=${type}>
              <th scope="row" class="wrap">
                <a href=${`/jobs?job_type=${encodeURIComponent(type)}`}>${type}</a>
              </th>
              <td class="num">${number(line.completed)}</td>
              <td class="num">${number(line.failed)}</td>
              <td class="num">${number(line.retried)}</td>
              <td class="num">${percent(success(line))}</td>
              ${[known?.queue, known?.run].flatMap((times, index) =>
                PERCENTILES.map(
                  ([name, word]) => html`<td class="num" key=${`${index} ${word}`}>
                    ${Number.isFinite(times?.[name]) ? `≈ ${duration(/** @type {number} */ (times[name]))}` : "–"}
                  </td>`,
                ),
              )}
            </tr>`;
          })}
        </tbody>
      </table>
    </div>
    <p class="muted small">
      Percentiles are accurate to about 12 % and cover at most the last day.
    </p>
  `;
}

/**
 * The budget of messages to Realtime; only operators see it.
 *
 * @param {{messages: MessageNumbers}} props
 */
function Messages({ messages }) {
  const { per_second: rate, budget_per_second: budget } = messages;
  const said = `${number(rate)} of ${number(budget)} a second`;
  return html`<section class="card bar" aria-labelledby="h-messages">
    <h2 id="h-messages">Messages to Realtime</h2>
    <span>
      <meter min="0" max=${budget} high=${budget * 0.9} value=${rate} aria-label=${said}></meter> <span
        class="num">
        ${said}
      </span>
    </span>
    <span class="muted">${number(messages.held_last_hour)} held back in the last hour</span>
    <span class="muted">
      about ${number(messages.month)} a month: $${messages.month_usd} on Pro
    </span>
  </section>`;
}

/** @param {{stats: Stats, workspace: Workspace, refresh: () => void}} props */
function Pauses({ stats, workspace, refresh }) {
  const pauses = stats.pauses ?? [];
  const own = pauses.find((pause) => pause.kind === "workspace" && pause.name === workspace.id);
  const others = pauses.filter((pause) => pause.kind !== "workspace");
  const [reason, setReason] = useState("");
  const act = actionsOn(refresh);
  const change = (/** @type {boolean} */ paused) =>
    act(
      paused ? "Could not pause" : "Could not resume",
      () =>
        paused
          ? operations.pause(workspace.id, { body: { reason: reason || null } })
          : operations.resume(workspace.id, { body: {} }),
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
            onInput=${(/** @type {{target: HTMLInputElement}} */ event) => setReason(event.target.value)} />
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
