// Lines over time, by uPlot, loaded when the first chart is drawn; and the same as a table.

import { clock, number, utc } from "../lib/format.js";
import { useStore } from "../lib/store.js";
import { needStyles } from "../lib/styles.js";
import { theme } from "../lib/theme.js";
import { html, useEffect, useRef, useState } from "../lib/ui.js";
import { column, table } from "./table.js";

const HEIGHT = 180;
const DAY = 86_400;
let loading = null;

function loadUPlot() {
  loading ??= new Promise((resolve, reject) => {
    needStyles("/vendor/uplot/dist/uPlot.min.css");
    const script = document.createElement("script");
    script.src = "/vendor/uplot/dist/uPlot.iife.min.js";
    script.addEventListener("load", () => resolve(globalThis.uPlot));
    script.addEventListener("error", () => reject(new Error("the chart could not be loaded")));
    document.head.append(script);
  });
  return loading;
}

const iso = (seconds) => new Date(seconds * 1000).toISOString();

const isValue = (value) => value !== null && value !== undefined;

/** The time of a point as short as its range allows: 08:36, or 11-20 08:00. */
const shortTime = (seconds, span) =>
  span > DAY ? utc(iso(seconds)).slice(5, 16) : clock(iso(seconds)).slice(0, 5);

export function Chart({ label, at, lines, format = number, most = 4 }) {
  const box = useRef(null);
  const plot = useRef(null);
  const mode = useStore(theme);
  const data = [at, ...lines.map((line) => line.values)];
  const latest = useRef(data);
  latest.current = data;
  const span = at.length > 0 ? at[at.length - 1] - at[0] : 0;
  const said = (value) => (isValue(value) ? format(value) : "–");
  // charts move together: the card stands in the one that the pointer is over
  const isOver = useRef(false);
  const [hover, setHover] = useState(null);
  const placeOf = (drawn) => {
    const { idx, left } = drawn.cursor;
    return isValue(idx) && isValue(left) && left >= 0
      ? { index: idx, left: Math.min(left + 70, box.current.clientWidth - 190) }
      : null;
  };
  const shape = lines.map((line) => `${line.name} ${line.colour}`).join();
  useEffect(() => {
    let closed = false;
    let observer = null;
    const draw = (UPlot) => {
      if (closed) return;
      // a canvas takes no variables, so the browser is asked for the colour in this scheme
      const colour = (name) => {
        box.current.style.color = `var(${name})`;
        return getComputedStyle(box.current).color;
      };
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
          legend: { show: false },
          hooks: {
            setCursor: [(drawn) => isOver.current && setHover(placeOf(drawn))],
          },
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
            {},
            ...lines.map(({ name, colour: variable, dash }) => ({
              label: name,
              stroke: colour(variable),
              width: 2,
              dash,
              spanGaps: true,
              // a value alone is not a line: a young project's charts would look empty
              points: {
                show: (drawn, nth) => drawn.data[nth].filter(isValue).length === 1,
                fill: colour(variable),
              },
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
  return html`<div
    class="chart"
    onMouseEnter=${() => (isOver.current = true)}
    onMouseLeave=${() => {
      isOver.current = false;
      setHover(null);
    }}>
    <p class="chart-lines" aria-hidden="true">
      ${lines.map(
        (line) => html`<span key=${line.name}>
          <i style=${{ "--ink": `var(${line.colour})` }}></i>
          ${line.name}
        </span>`,
      )}
    </p>
    ${
      hover &&
      html`<div class="chart-card" style=${{ left: `${hover.left}px` }}>
        <p class="muted">${shortTime(at[hover.index], span)} UTC</p>
        ${lines.map(
          (line) => html`<p key=${line.name}>
            <span>${line.name}</span>
            <span class="num strong">${said(line.values[hover.index])}</span>
          </p>`,
        )}
      </div>`
    }
    <div
      class="plot"
      ref=${box}
      role="img"
      aria-label=${`${label}: ${lines.map((line) => `${line.name} ${said(line.values.findLast((value) => value !== null))}`).join(", ")} at the end`}></div>
    <details class="more">
      <summary>As a table</summary>
      ${table({ label, rows: busy, key: (index) => at[index] }, [
        column("From, UTC", (index) => shortTime(at[index], span)),
        ...lines.map(({ name, values }) => column(name, "num", (index) => said(values[index]))),
      ])}
    </details>
  </div>`;
}
