// Shows the attempts, steps and child jobs of a job on a time axis, with bars and durations.

import { duration, pluralize, utc } from "../lib/format.js";
import { html, useMemo, useState } from "../lib/ui.js";
import { rowsOf } from "../lib/waterfall.js";

const MAX_ROWS = 400;

/**
 * Rows of a job's attempts, steps and child jobs on a time axis. `detailsOf(row)` returns the
 * details to show below a row that a person has opened.
 */
export function Waterfall({ trace, now, detailsOf }) {
  const [opened, setOpened] = useState(null);
  const all = useMemo(() => rowsOf(trace, now), [trace, now]);
  const rows = all.slice(0, MAX_ROWS);
  const from = Math.min(...rows.map((row) => row.from));
  const to = Math.max(...rows.map((row) => row.to)); // grows while the job runs
  const percent = (ms) => `${(100 * ms) / Math.max(to - from, 1)}%`;
  return html`<div class="waterfall">
    <ol class="waterfall-rows" aria-label="Waterfall">
      ${rows.map((row) => {
        const isOpened = row.key === opened;
        const place = { left: percent(row.from - from), width: percent(row.to - row.from) };
        return html`<li key=${row.key}>
          <${Line}
            row=${row}
            place=${place}
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
      html`<p class="muted small num">
        The first ${pluralize(rows.length, "row")}. The child jobs' pages show the others.
      </p>`
    }
  </div>`;
}

function Line({ row, place, isOpened, toggle }) {
  const { kind, level, name, word, tone, error, from, to, ran, isRunning } = row;
  const time = duration(ran || to - from);
  const title = error ?? `${time} from ${utc(new Date(from).toISOString())}`;
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
    </span>
    <span class="waterfall-track">
      <span class="waterfall-bar" data-running=${isRunning ? "" : undefined} style=${place}></span>
    </span>
    <span class="waterfall-time num">${time}</span>
  </button>`;
}
