// Lines over time, by uPlot, loaded when the first chart is drawn; and the same as a table.

import { clock, number, utc } from "../lib/format.js";
import { useStore } from "../lib/store.js";
import { theme } from "../lib/theme.js";
import { html, useEffect, useRef } from "../lib/ui.js";

/** @typedef {import("uplot")} Plot */
/**
 * @typedef {{name: string, values: Array<number | null>, colour: string, dash?: number[]}} Line `colour` names a
 *   variable of the style sheet.
 */

const HEIGHT = 180;
const DAY = 86_400;
/** @type {Promise<typeof globalThis.uPlot> | null} */
let loading = null;

function loadUPlot() {
  loading ??= new Promise((resolve, reject) => {
    const sheet = document.createElement("link");
    sheet.rel = "stylesheet";
    sheet.href = "/vendor/uplot/dist/uPlot.min.css";
    const script = document.createElement("script");
    script.src = "/vendor/uplot/dist/uPlot.iife.min.js";
    script.addEventListener("load", () => resolve(globalThis.uPlot));
    script.addEventListener("error", () => reject(new Error("the chart could not be loaded")));
    document.head.append(sheet, script);
  });
  return loading;
}

const iso = (/** @type {number} */ seconds) => new Date(seconds * 1000).toISOString();

/** @returns {value is number} */
const isValue = (/** @type {number | null | undefined} */ value) =>
  value !== null && value !== undefined;

/** The time of a point as short as its range allows: 08:36, or 11-20 08:00. */
const shortTime = (/** @type {number} */ seconds, /** @type {number} */ span) =>
  span > DAY ? utc(iso(seconds)).slice(5, 16) : clock(iso(seconds)).slice(0, 5);

/**
 * @param {{label: string, at: number[], lines: Line[], format?: (value: number) => string, most?: number}} props `at`
 *   in seconds; `most` is the top of the axis at least.
 */
export function Chart({ label, at, lines, format = number, most = 4 }) {
  /** @type {{current: HTMLElement}} */
  const box = useRef(null);
  const plot = useRef(/** @type {Plot | null} */ (null));
  const mode = useStore(theme);
  /** @type {import("uplot").AlignedData} */
  const data = [at, ...lines.map((line) => line.values)];
  const latest = useRef(data);
  latest.current = data;
  const span = at.length > 0 ? at[at.length - 1] - at[0] : 0;
  const said = (/** @type {number | null | undefined} */ value) =>
    isValue(value) ? format(value) : "–";
  const shape = lines.map((line) => `${line.name} ${line.colour}`).join();
  useEffect(() => {
    let closed = false;
    /** @type {ResizeObserver | null} */
    let observer = null;
    const draw = (/** @type {typeof globalThis.uPlot} */ UPlot) => {
      if (closed) return;
      const colour = (/** @type {string} */ name) =>
        getComputedStyle(document.documentElement).getPropertyValue(name).trim();
      const axis = {
        stroke: colour("--muted"),
        grid: { stroke: colour("--line"), width: 1 },
        ticks: { show: false },
        font: "11px system-ui",
      };
      plot.current = new UPlot(
        {
          width: box.current.clientWidth,
          height: HEIGHT,
          legend: { live: true },
          cursor: { points: { size: 6 }, sync: { key: "operations" } },
          scales: { y: { range: (_plot, _low, high) => [0, Math.max(most, (high ?? 0) * 1.1)] } },
          axes: [
            {
              ...axis,
              size: 30,
              values: (_plot, times) => times.map((time) => shortTime(time, span)),
            },
            {
              ...axis,
              size: 58,
              values: (_plot, values) =>
                values.map((value) =>
                  format === number && !Number.isInteger(value) ? "" : format(value),
                ),
            },
          ],
          series: [
            { value: (_plot, time) => (time ? shortTime(time, span) : "–") },
            ...lines.map(({ name, colour: variable, dash }) => ({
              label: name,
              stroke: colour(variable),
              width: 2,
              dash,
              spanGaps: true,
              // a value alone is not a line: a young project's charts would look empty
              points: {
                show: (/** @type {Plot} */ drawn, /** @type {number} */ nth) =>
                  /** @type {Array<number | null | undefined>} */ (drawn.data[nth]).filter(isValue)
                    .length === 1,
                fill: colour(variable),
              },
              value: (/** @type {Plot} */ _plot, /** @type {number | null} */ value) => said(value),
            })),
          ],
        },
        latest.current,
        box.current,
      );
      observer = new ResizeObserver(() =>
        plot.current?.setSize({ width: box.current.clientWidth, height: HEIGHT }),
      );
      observer.observe(box.current);
    };
    loadUPlot().then(draw, () => {
      if (!closed)
        box.current.textContent = "The chart could not be loaded; the table below has the numbers.";
    });
    const schemes = matchMedia("(prefers-color-scheme: dark)");
    const redraw = () => {
      plot.current?.destroy();
      observer?.disconnect();
      loadUPlot().then(draw);
    };
    schemes.addEventListener("change", redraw);
    return () => {
      closed = true;
      schemes.removeEventListener("change", redraw);
      observer?.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [mode, shape, span > DAY]);
  useEffect(() => plot.current?.setData(data), [at, lines]);
  const busy = at
    .map((_, index) => index)
    .filter((index) => lines.some((line) => line.values[index]))
    .slice(-60);
  return html`<div class="chart"><div ref=${box} role="img" aria-label=${`${label}: ${lines.map((line) => `${line.name} ${said(line.values.findLast((value) => value !== null))}`).join(", ")} at the end`}></div>
    <details class="more"><summary>As a table</summary><div class="scroll-x" tabindex="0" role="group" aria-label=${label}><table class="table"><thead><tr><th scope="col">From, UTC</th>${lines.map((line) => html`<th scope="col" class="num" key=${line.name}>${line.name}</th>`)}</tr></thead>
      <tbody>${busy.map((index) => html`<tr key=${at[index]}><td>${shortTime(at[index], span)}</td>${lines.map((line) => html`<td class="num" key=${line.name}>${said(line.values[index])}</td>`)}</tr>`)}</tbody></table></div></details>
  </div>`;
}
