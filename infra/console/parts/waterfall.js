// Shows the attempts, steps and child jobs of a job on a time axis, with bars and durations.

import { duration, pluralize, timeOfDay, utc } from "../lib/format.js";
import { html, useState } from "../lib/ui.js";
import { fileOf } from "./when.js";

const MAX_ROWS = 400;

/**
 * Rows of a job's attempts, steps and child jobs on a time axis. The bars of the job are hatched
 * from the time `silentSince`, if it has one. `marks` are the times of its log lines, with their
 * levels, and `place` is the line of code where it was last seen. `detailsOf(row)` returns the
 * details to show below a row that a person has opened.
 */
export function Waterfall({ all, more, silentSince, marks, place, detailsOf }) {
  const [opened, setOpened] = useState(null);
  const rows = all.slice(0, MAX_ROWS);
  const [{ jobId }] = rows;
  // the innermost of the job's rows that run now
  const current = rows.findLast((row) => row.isRunning && row.jobId === jobId);
  const from = Math.min(...rows.map((row) => row.from));
  const to = Math.max(...rows.map((row) => row.to)); // grows while the job runs
  const percent = (ms, whole = to - from) => `${(100 * ms) / Math.max(whole, 1)}%`;
  const places = marks.map(({ at, level }) => ({
    level, // the worker's clock may differ
    left: percent(Math.min(Math.max(Date.parse(at), from), to) - from),
  }));
  return html`<div class="waterfall">
    <p class="waterfall-axis muted num" aria-hidden="true">
      <span>${timeOfDay(from)}</span>
      <span>${rows.some((row) => row.isRunning) ? "now" : timeOfDay(to)}</span>
    </p>
    <ol class="waterfall-rows" aria-label="Waterfall">
      ${rows.map((row) => {
        const isOpened = row.key === opened;
        const style = {
          left: percent(row.from - from),
          width: percent(row.to - row.from),
          "--silent":
            row.isRunning &&
            row.jobId === jobId &&
            percent(row.to - Math.max(silentSince, row.from), row.to - row.from),
        };
        return html`<li key=${row.key}>
          <${Line}
            row=${row}
            style=${style}
            marks=${row.key === jobId ? places : []}
            place=${row === current && place}
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
      (all.length > MAX_ROWS || more) &&
      html`<p class="muted small num">
        The first ${pluralize(rows.length, "row")}. The child jobs' pages show the others.
      </p>`
    }
  </div>`;
}

function Line({ row, style, marks, place, isOpened, toggle }) {
  const { kind, level, name, word, tone, error, from, to, ran, isRunning } = row;
  const time = duration(ran || to - from);
  const title = error ?? `${time} from ${utc(from)}`;
  return html`<button
    type="button"
    class="waterfall-row"
    data-kind=${kind}
    data-tone=${tone}
    aria-expanded=${isOpened}
    onClick=${toggle}
    title=${title}>
    <span class="waterfall-name" style=${{ "--level": Math.min(level, 4) }}>
      <span class=${kind === "job" ? "name strong" : "name"}>${name}</span>
      ${word && html` <span class="waterfall-word">${word}</span>`}
      ${
        place &&
        html` <span class="waterfall-word" title=${`last seen at ${place}`}>
          at <code>${fileOf(place)}</code>
        </span>`
      }
    </span>
    <span class="waterfall-track">
      <span class="waterfall-bar" data-running=${isRunning ? "" : undefined} style=${style}></span>
      ${marks.map(
        (mark) =>
          html`<i class="waterfall-mark" data-level=${mark.level} style=${{ left: mark.left }}></i>`,
      )}
    </span>
    <span class="waterfall-time num">${time}</span>
  </button>`;
}
