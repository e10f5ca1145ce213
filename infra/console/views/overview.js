// Overview page of a workspace: live jobs, problems, throughput and queue time.

import { jobs, engine } from "../api.js";
import { atLeast, duration, number, percent } from "../lib/format.js";
import { useQuery } from "../lib/router.js";
import { bucketize, topTypes, rangeOf, RANGES, success } from "../lib/series.js";
import { STATES } from "../lib/states.js";
import { useFetch } from "../lib/store.js";
import { html, useMemo } from "../lib/ui.js";
import { Chart } from "../parts/chart.js";
import { FAILURE_COLUMNS, failureKey } from "../parts/failures.js";
import { Holders } from "../parts/holders.js";
import { useRefresh } from "../parts/live.js";
import { PauseButton } from "../parts/pause.js";
import { Empty, lateNote, pageHead, Placeholder, stale } from "../parts/states-of-view.js";
import { figure, table } from "../parts/table.js";
import { When } from "../parts/when.js";

export const title = () => "Overview";

const MAX_FAILURES = 5;

export default function Overview({ workspace }) {
  const range = rangeOf(useQuery().get("range"));
  const [minutes] = RANGES[range];
  const scope = workspace.id;
  // read one after another, because the database rejects a person's third large read at a time
  const stats = useFetch(
    async (signal) => ({
      ...(await engine.stats(scope, minutes, signal)),
      series: await engine.series(scope, minutes, signal),
      failures: await jobs.failures(scope, signal),
    }),
    [scope, minutes],
  );
  const explained = useFetch(() => engine.explain(scope), [scope]);
  useRefresh(stats);
  useRefresh(explained);
  return html`<div class="page">
    ${pageHead(
      "Overview",
      null,
      stats.value &&
        html`<${PauseButton}
          workspace=${workspace}
          isPaused=${stats.value.pauses?.some(
            ({ kind, name }) => kind === "workspace" && name === scope,
          )}
          refresh=${stats.refresh} />`,
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
    ${stale(stats)}
    ${
      stats.value
        ? html`<${Stats} stats=${stats.value} range=${range}>
          <${Holders} ...${explained.value} />
        <//>`
        : html`<${Placeholder} of=${stats} what="the statistics" />`
    }
  </div>`;
}

/** Link to the list of jobs in a state. */
const listOf = (state, more = "") =>
  html`<a href=${`/jobs?state=${state}${more}`}>${STATES[state].word}</a>`;

function Stats({ stats, range, children }) {
  const {
    live,
    series,
    failures,
    backlog: { oldest_at: oldest },
    late_since: late,
  } = stats;
  const [, words] = RANGES[range];
  const since = `&since=${range}`;
  const { at, step, totals, sums, types } = useMemo(() => bucketize(series), [series]);
  const lines = topTypes(types).map(([name, type], index) => ({
    name,
    colour: `--line-${index + 1}`,
    values: type.queue,
  }));
  const none = live.queued === 0 && "nothing is due";
  const due = oldest ? html`oldest <${When} at=${oldest} />` : none;
  const lost = sums.lost > 0 ? `, ${number(sums.lost)} lost with a worker` : "";
  return html`
    ${lateNote(late)}
    <section class="grid-cards" aria-label="Totals">
      ${figure(listOf("queued"), atLeast(live.queued), due)}
      ${figure(listOf("scheduled"), atLeast(live.scheduled), `${atLeast(live.retrying)} retrying`)}
      ${figure(listOf("running"), atLeast(live.running), `${atLeast(live.suspended)} suspended`)}
      ${figure(listOf("completed", since), number(sums.completed), `${number(sums.enqueued)} enqueued`)}
      ${figure(listOf("failed", since), number(sums.failed), `${number(sums.retried)} retried${lost}`, sums.failed > 0)}
      ${figure("Success", percent(success(sums)), `of the last ${words}`, success(sums) < HEALTHY_SUCCESS)}
    </section>
    ${children}
    <${Failures} groups=${failures.groups} />
    ${
      types.size === 0
        ? html`<section class="card">
          <${Empty} title=${`No job ran in the last ${words}`}>
            <p>Choose a longer range, or <a href="/jobs">enqueue one</a>.</p>
          <//>
        </section>`
        : html`<div class="charts">
          ${chart("h-through", `Throughput, jobs per ${duration(step * 1000)}`, {
            label: "Jobs",
            at,
            lines: [
              { name: "Completed", values: totals.completed, colour: "--completed" },
              // drawn on the line of completed jobs, which shows through the dashes
              { name: "Enqueued", values: totals.enqueued, colour: "--accent", dash: [6, 6] },
              { name: "Failed", values: totals.failed, colour: "--failed" },
            ],
          })}
          ${chart("h-wait", "Queue time, p95", {
            label: "Queue time",
            at,
            minTop: 100,
            format: duration,
            lines,
            more: types.size - lines.length,
          })}
        </div>`
    }
  `;
}

const HEALTHY_SUCCESS = 0.95; // a lower share of completed jobs is a problem

const chart = (id, name, { more = 0, ...plot }) =>
  html`<section class="card" aria-labelledby=${id}>
    <h2 id=${id}>${name}</h2>
    <${Chart} ...${plot} />
    ${more > 0 && html`<p class="muted small">and ${number(more)} more <a href="/types">types</a></p>`}
  </section>`;

/** Shows the groups of failed jobs with the most jobs. */
function Failures({ groups }) {
  if (groups.length === 0) return null;
  const rows = groups.slice(0, MAX_FAILURES);
  return html`<section class="card" aria-labelledby="h-failures">
    <h2 id="h-failures">Failures</h2>
    ${table({ label: "Failures", rows, key: failureKey, cards: true }, FAILURE_COLUMNS)}
    <p class="notice"><a href="/jobs?grouped=1">All failures</a></p>
  </section>`;
}
