// Waterfall: a job and its children on one time axis, walked by keyboard.

import { counted, duration, relative, utc } from "../lib/format.js";
import { outcomeOf } from "../lib/states.js";
import { needStyles } from "../lib/styles.js";
import { html, quiet, useMemo, useRef, useState } from "../lib/ui.js";
import { extentOf, placeOf, rowsOf, spansOf, ticksOf } from "../lib/waterfall.js";

needStyles("/styles/waterfall.css");

const MOST_ROWS = 400;
const LAST_LABEL = 95; // percent of the axis; beyond, a label would lie over the one before it
const NARROW = 700; // pixels of a window whose axis has room for half the ticks
const SPAN_WORDS = { queued: "Queued", run: "Held", wait: "Waited", backoff: "Backing off" };

/** A round duration: 5 s, 2 min, 1 h. */
const roundly = (ms) =>
  duration(ms)
    .replace(/\.0 s$/, " s")
    .replace(/ 00 (s|min)$/, "")
    .replace(/ 0 h$/, "");

/** What a row says without its bar. */
function labelOfRow(row, view) {
  const lasted = row.isRunning
    ? `for ${duration(row.to - row.from)} so far`
    : duration(row.to - row.from);
  return [row.word, lasted, `from ${roundly(row.from - view.from)}`].join(", ");
}

/** What one of its bars says. */
function labelOfBar(bar, row) {
  const from = utc(new Date(bar.from).toISOString());
  return `${SPAN_WORDS[bar.kind] ?? row.word} ${duration(bar.to - bar.from)} from ${from}`;
}

/** `detailsOf` a row is drawn below the chart when the row is opened. */
export function Waterfall({ trace, now, detailsOf }) {
  const [opened, setOpened] = useState(null);
  const all = useMemo(() => rowsOf(trace, now), [trace, now]);
  const rows = all.slice(0, MOST_ROWS);
  const view = extentOf(rows); // it grows while something runs
  const [root] = trace.jobs;
  const shownRow = all.find(({ key }) => key === opened);
  const open = (row) => setOpened(row.key === opened ? null : row.key);
  const others = trace.more
    ? "children beyond the 300th are in their list"
    : "the rest is on the pages of the children";
  return html`<div class="waterfall">
    <${Sums} job=${root} now=${now} />
    <${Chart} rows=${rows} view=${view} open=${open} opened=${opened} />
    ${
      shownRow &&
      html`<section class="waterfall-details" aria-label=${`Details of ${shownRow.name}`}>
        <div class="bar">
          <h3>${shownRow.name}</h3>
          <span class="spacer"></span>
          ${quiet("Close", () => setOpened(null))}
        </div>
        ${detailsOf(shownRow)}
      </section>`
    }
    ${
      (all.length > MOST_ROWS || trace.more) &&
      html`<p class="muted small num">
        The first ${counted(Math.min(all.length, MOST_ROWS), "row")}; ${others}.
      </p>`
    }
    <p class="muted small waterfall-legend">
      <span class="bar"><i class="key-queued" aria-hidden="true"></i> Queued or backing off</span>
      <span class="bar"><i class="key-wait" aria-hidden="true"></i> Waiting, without a worker</span>
      <span class="spacer"></span> A row opens its input and output.
    </p>
  </div>`;
}

/** Where its time went. */
function Sums({ job, now }) {
  const { times, created_at: from, finished_at: to } = job;
  const whole = (to ? Date.parse(to) : now) - Date.parse(from);
  const spans = spansOf(job, now);
  const sum = (isMeant) =>
    spans.filter(isMeant).reduce((all, span) => all + span.to - span.from, 0);
  const parts = [
    ["Queued", times.queue_ms ?? 0],
    [times.runs > 1 ? `Ran in ${times.runs} runs` : "Ran", times.run_ms],
    ["Waited", sum(({ kind }) => kind === "wait")],
    ["Backing off", sum(({ kind }) => kind === "backoff")],
    ["Lost with its worker", sum(({ attempt }) => attempt?.outcome === "lost")],
  ].filter(([, ms], index) => ms > 0 || index === 1);
  return html`<p class="sums">
    ${parts.map(
      ([word, ms]) => html`<span key=${word}>
        <span class="muted">${word}</span> <span class="num strong">${duration(ms)}</span>
      </span>`,
    )}
    <span>
      <span class="muted">${to ? "Total" : "So far"}</span> <span class="num strong">
        ${duration(whole)}
      </span>
    </span>
  </p>`;
}

function Chart({ rows, view, open, opened }) {
  const [chosen, setChosen] = useState(null); // has the focus of the chart
  const box = useRef(null);
  const at = rows.findIndex((row) => row.key === chosen);
  const focusOn = (index) => {
    const row = rows[Math.max(0, Math.min(rows.length - 1, index))];
    box.current.querySelector(`[data-key="${CSS.escape(row.key)}"]`)?.focus();
  };
  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const row = rows[at];
    if (event.target.closest("a, button")) return;
    const moves = {
      ArrowDown: () => focusOn(at + 1),
      ArrowUp: () => focusOn(at - 1),
      Home: () => focusOn(0),
      End: () => focusOn(rows.length - 1),
      Enter: () => row && open(row),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  };
  const ticks = ticksOf(view, innerWidth < NARROW ? 4 : 8).map((offset) => ({
    offset,
    left: (offset / (view.to - view.from)) * 100,
  }));
  return html`<div ref=${box} class="waterfall-chart" onKeyDown=${onKey}>
    <div class="waterfall-head" aria-hidden="true">
      <span class="waterfall-name"></span>
      <div class="waterfall-axis">
        ${ticks
          .filter(({ left }) => left <= LAST_LABEL)
          .map(
            ({ offset, left }) => html`<span
              key=${offset}
              class="waterfall-tick"
              style=${{ left: `${left}%` }}>
              ${roundly(offset)}
            </span>`,
          )}
      </div>
    </div>
    <div role="treegrid" aria-label="Waterfall" aria-rowcount=${rows.length} class="waterfall-rows">
      ${rows.map(
        (row, index) => html`<${Line}
          key=${row.key}
          row=${row}
          view=${view}
          ticks=${ticks}
          open=${open}
          isOpened=${row.key === opened}
          isFirst=${chosen && at >= 0 ? row.key === chosen : index === 0}
          choose=${() => setChosen(row.key)} />`,
      )}
    </div>
  </div>`;
}

/** Where a bar's time is written, by percent of the chart. */
const SIDES = {
  before: (left) => ({ right: `${100 - left}%` }),
  inside: () => ({ right: "0" }),
  after: (_, end) => ({ left: `${end}%` }),
};

function Line({ row, view, ticks, open, isOpened, isFirst, choose }) {
  const label =
    row.isRunning && row.kind !== "job"
      ? `${duration(row.to - row.from)}…`
      : duration(row.to - row.from);
  const { left, width } = placeOf(row, view);
  const end = left + width;
  const side = end <= 84 ? "after" : left > 16 ? "before" : "inside";
  return html`<div
    role="row"
    class="waterfall-row"
    data-key=${row.key}
    data-kind=${row.kind}
    data-tone=${row.tone}
    aria-level=${row.level + 1}
    aria-selected=${isOpened}
    tabindex=${isFirst ? 0 : -1}
    onFocus=${choose}
    onClick=${(event) => !event.target.closest("a, button") && open(row)}
    title=${row.error ?? undefined}>
    <div role="gridcell" class="waterfall-name" style=${{ "--level": Math.min(row.level, 4) }}>
      ${
        row.kind === "job" && row.level > 0
          ? html`<a href=${`/jobs/${row.jobId}`} tabindex="-1">
            ${row.name}
          </a>`
          : html`<span class=${row.kind === "job" ? "strong" : "name"}>
            ${row.name}
          </span>`
      }
      ${row.kind !== "step" && html`<span class="waterfall-word">${row.word}</span>`}
    </div>
    <div role="gridcell" class="waterfall-track" aria-label=${labelOfRow(row, view)}>
      ${ticks.map(
        ({ offset, left: at }) => html`<span
          key=${offset}
          class="waterfall-line"
          style=${{ left: `${at}%` }}></span>`,
      )}
      ${row.bars.map((bar, index) => {
        const spot = placeOf(bar, view);
        return html`<span
          key=${index}
          class="waterfall-bar"
          data-span=${bar.kind}
          data-tone=${bar.attempt ? outcomeOf(bar.attempt.outcome).tone : row.tone}
          data-running=${row.isRunning && index === row.bars.length - 1 ? "" : undefined}
          style=${{ left: `${spot.left}%`, width: `${spot.width}%` }}
          title=${labelOfBar(bar, row)}></span>`;
      })}
      <span class="waterfall-time num" data-side=${side} style=${SIDES[side](left, end)}>
        ${label}
        ${
          row.until > row.to && row.isRunning
            ? html` <span class="muted">${relative(new Date(row.until).toISOString())}</span>`
            : ""
        }
      </span>
    </div>
  </div>`;
}
