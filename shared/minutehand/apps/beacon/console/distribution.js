// The latencies of each region as a picture: how many answers took how long, on one shared scale.

import { html, useEffect, useRef, useState } from "../../lib/ui.js";
import { latency } from "./data.js";

const BINS = 48;
const ROW = 62;
const BARS = 34;
const AXIS = 24;

/** A scale in powers of ten around the values, with marks at 1, 2 and 5. Pure. */
export function scale(values) {
  const low = Math.log10(Math.max(1, Math.min(...values)) / 1.15);
  const high = Math.max(low + 0.2, Math.log10(Math.max(...values) * 1.15));
  const marks = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power += 1) {
    for (const step of [1, 2, 5]) {
      const at = Math.log10(step) + power;
      if (at >= low && at <= high) marks.push({ value: step * 10 ** power, at: (at - low) / (high - low) });
    }
  }
  return { place: (value) => (Math.log10(Math.max(1, value)) - low) / (high - low), marks };
}

/** How many of `values` fall into each bin of a scale. Pure. */
export function bins(values, place) {
  const counts = new Array(BINS).fill(0);
  for (const value of values) counts[Math.min(BINS - 1, Math.max(0, Math.floor(place(value) * BINS)))] += 1;
  return counts;
}

/** Columns of samples as the latencies of successes, and the number of the others. */
export function successes({ codes, outcome, latency_us: took }) {
  const good = took.filter((_, place) => codes[outcome[place]].startsWith("ok:"));
  return { good, errors: took.length - good.length };
}

/** @param {{regions: {region: string, samples: object, statistics: object}[], p95Ms: number | null}} props */
export function Distribution({ regions, p95Ms }) {
  const box = useRef(null);
  const [width, setWidth] = useState(640);
  useEffect(() => {
    const observer = new ResizeObserver(() => setWidth(Math.max(240, box.current.clientWidth)));
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  const rows = regions.map(({ region, samples, statistics }) => ({ region, statistics, ...successes(samples) }));
  const all = rows.flatMap((row) => row.good);
  const limit = p95Ms === null ? null : p95Ms * 1000;
  const near = limit !== null && all.length > 0 && limit < Math.max(...all) * 4 && limit > Math.min(...all) / 4;
  const { place, marks } = scale(all.length > 0 ? (near ? [...all, limit] : all) : [1000, 100_000]);
  const height = rows.length * ROW + AXIS;
  const label = rows.map(({ region, statistics, errors }) => `${region}: median ${latency(statistics.latency_us?.p50)}, 95 % within ${latency(statistics.latency_us?.p95)}, ${errors} errors`).join("; ");
  const room = Math.max(3, Math.floor(width / 70));
  const every = Math.ceil(marks.length / room);
  return html`<div ref=${box} class="distribution">
    <svg width=${width} height=${height} role="img" aria-label=${`Latencies. ${label}`}>
      ${marks.map(({ value, at }, number) => number % every === 0 && html`<g key=${value}>
        <line x1=${at * width} x2=${at * width} y1="0" y2=${height - AXIS} stroke="var(--line)" />
        <text x=${Math.min(width - 2, Math.max(2, at * width))} y=${height - 7} font-size="11" fill="var(--muted)" text-anchor=${at < 0.06 ? "start" : at > 0.94 ? "end" : "middle"}>${latency(value).replace(".0 ", " ")}</text></g>`)}
      ${rows.map((row, number) => html`<${Row} key=${row.region} row=${row} top=${number * ROW} width=${width} place=${place} />`)}
      ${near && html`<line x1=${place(limit) * width} x2=${place(limit) * width} y1="0" y2=${height - AXIS} stroke="var(--failed)" stroke-width="1.5" stroke-dasharray="4 4" />`}
    </svg>
    <p class="muted small">Height: answers that took so long. Blue line: 95 % within.${near ? ` Dashed: the threshold, ${latency(limit)}.` : limit === null || all.length === 0 ? "" : ` The threshold of ${latency(limit)} lies beyond the picture.`}</p>
  </div>`;
}

function Row({ row, top, width, place }) {
  const counts = bins(row.good, place);
  const most = Math.max(1, ...counts);
  const step = width / BINS;
  const base = top + ROW - 6;
  const p95 = row.statistics.latency_us?.p95;
  return html`<g>
    <text x="2" y=${top + 14} font-size="12" fill="var(--text)"><tspan font-weight="600">${row.region}</tspan><tspan dx="8" fill=${row.errors > 0 ? "var(--failed)" : "var(--muted)"}>${row.errors === 0 ? "no errors" : `${row.errors} of ${row.statistics.count} failed`}</tspan></text>
    ${counts.map((count, bin) => count > 0 && html`<rect key=${bin} x=${bin * step + 0.5} width=${Math.max(1, step - 1)} y=${base - (count / most) * BARS} height=${(count / most) * BARS} rx="1" fill="var(--completed)" fill-opacity=".75"><title>${count}</title></rect>`)}
    <line x1="0" x2=${width} y1=${base} y2=${base} stroke="var(--line-strong)" />
    ${Number.isFinite(p95) && html`<line x1=${place(p95) * width} x2=${place(p95) * width} y1=${base - BARS - 2} y2=${base} stroke="var(--processing)" stroke-width="2" />`}
  </g>`;
}
