// Line charts over time. The library uPlot is loaded when the first chart is drawn.

import { clock, local, number } from "../lib/format.js";
import { useStore } from "../lib/store.js";
import { theme } from "../lib/theme.js";
import { html, useEffect, useRef } from "../lib/ui.js";

const HEIGHT = 180;
const DAY = 86_400;
/**
 * Distances between the labels of counts, and of durations in milliseconds. Each is at most four
 * times the previous one, because an axis has space for four distances.
 */
const STEPS = [
  1, 2, 5, 20, 50, 200, 500, 2000, 5000, 15e3, 6e4, 18e4, 6e5, 18e5, 72e5, 216e5, 864e5, 3456e5,
];
const iso = (seconds) => new Date(seconds * 1000).toISOString();

const hasValue = (value) => value !== null && value !== undefined;

/**
 * Format the time of a point as `08:36`. If the chart covers more than a day, format the time as
 * `11-20 08:00`.
 */
const shortTime = (seconds, span) =>
  span > DAY ? local(iso(seconds)).slice(5, 16) : clock(iso(seconds)).slice(0, 5);

export function Chart({ label, at, lines, format = number, minTop = 4 }) {
  const box = useRef(null);
  const plot = useRef(null);
  const mode = useStore(theme);
  const data = [at, ...lines.map((line) => line.values)];
  const latest = useRef(data);
  latest.current = data;
  const span = at.length > 0 ? at[at.length - 1] - at[0] : 0;
  const formatValue = (value) => (hasValue(value) ? format(value) : "–");
  const shape = lines.map((line) => `${line.name} ${line.colour}`).join();
  useEffect(() => {
    let closed = false;
    const draw = ({ default: UPlot }) => {
      if (closed) return;
      plot.current?.destroy();
      // read the computed colour of the CSS variable, because a canvas cannot use CSS variables
      const colour = (name) => {
        box.current.style.color = `var(${name})`;
        return getComputedStyle(box.current).color;
      };
      const axis = {
        grid: { stroke: colour("--line"), width: 1 },
        stroke: colour("--muted"),
        ticks: { show: false },
        font: "11px system-ui",
      };
      const times = (_plot, values) => values.map((time) => shortTime(time, span));
      const amounts = (_plot, values) => values.map(format);
      const series = lines.map(({ name, colour: variable, dash }) => ({
        label: name,
        stroke: colour(variable),
        width: 2,
        dash,
        spanGaps: true,
        value: (drawn, value, nth, point) =>
          formatValue(point === null ? drawn.data[nth].findLast(hasValue) : value),
        // Draw a line that has a single value as a point, because otherwise the chart of a new
        // project would look empty.
        points: {
          show: (drawn, nth) => drawn.data[nth].filter(hasValue).length === 1,
          fill: colour(variable),
        },
      }));
      const options = {
        width: box.current.clientWidth,
        height: HEIGHT,
        cursor: { sync: { key: "operations" } }, // all charts share one cursor
        scales: { y: { range: (_plot, _low, high) => [0, Math.max(minTop, (high ?? 0) * 1.1)] } },
        axes: [
          { ...axis, size: 30, values: times },
          { ...axis, size: 76, values: amounts, incrs: STEPS },
        ],
        series: [
          { label: "Time", value: (_plot, time) => (time ? shortTime(time, span) : "latest") },
          ...series,
        ],
      };
      plot.current = new UPlot(options, latest.current, box.current);
      box.current.style.color = "";
    };
    const redraw = () =>
      import("uplot").then(draw, () => {
        if (!closed) box.current.textContent = "The chart could not be loaded.";
      });
    redraw();
    const schemes = matchMedia("(prefers-color-scheme: dark)");
    schemes.addEventListener("change", redraw);
    const sizes = new ResizeObserver(() =>
      plot.current?.setSize({ width: box.current.clientWidth, height: HEIGHT }),
    );
    sizes.observe(box.current);
    return () => {
      closed = true;
      schemes.removeEventListener("change", redraw);
      sizes.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [mode, shape, span > DAY]);
  useEffect(() => plot.current?.setData(data), [at, lines]);
  const last = ({ name, values }) => `${name} ${formatValue(values.findLast(hasValue))}`;
  return html`<div
    class="plot"
    ref=${box}
    role="img"
    aria-label=${`${label}: ${lines.map(last).join(", ")} at the end`}></div>`;
}
