// Waterfall of a job's steps and children in the order of time, with bars and durations.

import { pluralize, duration, relative, utc } from "../lib/format.js";
import { outcomeOf } from "../lib/states.js";
import { html, useMemo, useState } from "../lib/ui.js";
import { extentOf, placeOf, rowsOf, spansOf } from "../lib/waterfall.js";

const MAX_ROWS = 400;
const SPAN_WORDS = { queued: "Queued", run: "Ran", wait: "Waited", backoff: "Backing off" };

/** The waterfall. `detailsOf(row)` returns the details that are drawn below an opened row. */
export function Waterfall({ trace, now, detailsOf }) {
  const [opened, setOpened] = useState(null);
  const all = useMemo(() => rowsOf(trace, now), [trace, now]);
  const rows = all.slice(0, MAX_ROWS);
  const view = extentOf(rows); // grows while the job runs
  const others = trace.more
    ? "The list shows the child jobs after the 300th"
    : "The rest of this waterfall is on the child jobs' pages";
  return html`<div class="waterfall">
    <${Totals} job=${trace.jobs[0]} now=${now} />
    <ol class="waterfall-rows" aria-label="Waterfall">
      ${rows.map((row) => {
        const isOpened = row.key === opened;
        return html`<li key=${row.key}>
          <${Line}
            row=${row}
            view=${view}
            isOpened=${isOpened}
            toggle=${() => setOpened(isOpened ? null : row.key)} />
          ${
            isOpened &&
            html`<section class="waterfall-details" aria-label=${`Details of ${row.name}`}>
              ${detailsOf(row)}
            </section>`
          }
        </li>`;
      })}
    </ol>
    ${
      (all.length > MAX_ROWS || trace.more) &&
      html`<p class="muted small num">The first ${pluralize(rows.length, "row")}. ${others}.</p>`
    }
    <p class="muted small waterfall-legend">
      <span class="bar"><i class="key-queued" aria-hidden="true"></i> Queued or backing off</span>
      <span class="bar"><i class="key-wait" aria-hidden="true"></i> Waiting, without a worker</span>
      <span class="spacer"></span> Click a row to see its input and output.
    </p>
  </div>`;
}

/** Total queue time, duration and wait time of a job. */
function Totals({ job, now }) {
  const { times, created_at: from, finished_at: to } = job;
  const whole = (to ? Date.parse(to) : now) - Date.parse(from);
  const spans = spansOf(job, now);
  const sum = (isCounted) =>
    spans.filter(isCounted).reduce((all, span) => all + span.to - span.from, 0);
  const parts = [
    ["Queued", times.queue_ms ?? 0],
    [times.runs > 1 ? `Ran in ${times.runs} runs` : "Ran", times.run_ms, true],
    ["Waited", sum(({ kind }) => kind === "wait")],
    ["Backing off", sum(({ kind }) => kind === "backoff")],
    ["Lost with its worker", sum(({ attempt }) => ["lost", "died"].includes(attempt?.outcome))],
    [to ? "Total" : "So far", whole, true],
  ].filter(([, ms, isShown]) => ms > 0 || isShown);
  return html`<p class="sums">
    ${parts.map(
      ([word, ms]) => html`<span key=${word}>
        <span class="muted">${word}</span> <span class="num strong">${duration(ms)}</span>
      </span>`,
    )}
  </p>`;
}

function Line({ row, view, isOpened, toggle }) {
  const { kind, level, name, word, tone, bars, error, from, to, until, isRunning } = row;
  return html`<button
    type="button"
    class="waterfall-row"
    data-kind=${kind}
    data-tone=${tone}
    aria-expanded=${isOpened}
    onClick=${toggle}
    title=${error ?? undefined}>
    <span class="waterfall-name" style=${{ "--level": Math.min(level, 4) }}>
      <span class=${kind === "job" ? "name strong" : "name"}>${name}</span>
      ${kind !== "step" && html` <span class="waterfall-word">${word}</span>`}
    </span>
    <span class="waterfall-track">
      ${bars.map((bar, index) => {
        const { left, width } = placeOf(bar, view);
        const start = utc(new Date(bar.from).toISOString());
        return html`<span
          key=${index}
          class="waterfall-bar"
          data-span=${bar.kind}
          data-tone=${bar.attempt ? outcomeOf(bar.attempt.outcome).tone : tone}
          data-running=${isRunning && index === bars.length - 1 ? "" : undefined}
          style=${{ left: `${left}%`, width: `${width}%` }}
          title=${`${SPAN_WORDS[bar.kind] ?? word} ${duration(bar.to - bar.from)} from ${start}`}></span>`;
      })}
    </span>
    <span class="waterfall-time num">
      ${duration(to - from)}
      ${isRunning && until > to && ` ${relative(new Date(until).toISOString())}`}
    </span>
  </button>`;
}
