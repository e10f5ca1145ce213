// Jobs per minute as lines, by uPlot, loaded when the first chart is drawn; and as a table.

import { clock, number } from "../lib/format.js";
import { useStore } from "../lib/store.js";
import { theme } from "../lib/theme.js";
import { html, useEffect, useRef } from "../lib/ui.js";

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

const SERIES = [["enqueued", "Enqueued", "--pending", [4, 4]], ["completed", "Completed", "--completed"], ["failed", "Failed", "--failed"]];

/** One point a minute from `since` to `now`; minutes without jobs are zeros. Pure. */
export function series(minutes, since, now) {
  const step = 60;
  const from = Math.floor(Date.parse(since) / 1000 / step) * step;
  const to = Math.floor(Date.parse(now) / 1000 / step) * step;
  const known = new Map(minutes.map((line) => [Math.floor(Date.parse(line.minute) / 1000), line]));
  const times = [];
  for (let at = from; at <= to && times.length < 2000; at += step) times.push(at);
  return [times, ...SERIES.map(([name]) => times.map((at) => Number(known.get(at)?.[name] ?? 0)))];
}

/** @param {{label: string, minutes: object[], since: string, now: string}} props */
export function Chart({ label, minutes, since, now }) {
  const box = useRef(null);
  const plot = useRef(null);
  const mode = useStore(theme);
  const data = series(minutes, since, now);
  const latest = useRef(data);
  latest.current = data;
  useEffect(() => {
    let closed = false;
    let observer = null;
    const draw = (UPlot) => {
      if (closed) return;
      const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
      const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
      plot.current = new UPlot({
        width: box.current.clientWidth, height: 180, legend: { live: true }, cursor: { points: { size: 6 } },
        scales: { y: { range: (_plot, _low, high) => [0, Math.max(4, high * 1.1)] } },
        axes: [{ ...axis, size: 30, values: (_plot, times) => times.map((at) => clock(new Date(at * 1000).toISOString()).slice(0, 5)) }, { ...axis, size: 44, values: (_plot, values) => values.map((value) => (Number.isInteger(value) ? number(value) : "")) }],
        series: [{ value: (_plot, at) => (at ? clock(new Date(at * 1000).toISOString()).slice(0, 5) : "–") },
          ...SERIES.map(([, word, name, dash]) => ({ label: word, stroke: colour(name), width: 2, dash, points: { show: false }, value: (_plot, value) => (value === null ? "–" : number(value)) }))],
      }, latest.current, box.current);
      observer = new ResizeObserver(() => plot.current?.setSize({ width: box.current.clientWidth, height: 180 }));
      observer.observe(box.current);
    };
    loadUPlot().then(draw, () => { if (!closed) box.current.textContent = "The chart could not be loaded; the table below has the numbers."; });
    const schemes = matchMedia("(prefers-color-scheme: dark)");
    const redraw = () => { plot.current?.destroy(); observer?.disconnect(); loadUPlot().then(draw); };
    schemes.addEventListener("change", redraw);
    return () => {
      closed = true;
      schemes.removeEventListener("change", redraw);
      observer?.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [mode]);
  useEffect(() => plot.current?.setData(data), [minutes, now]);
  const busy = minutes.slice(-60);
  return html`<div class="chart"><div ref=${box} role="img" aria-label=${`${label}: ${number(busy.reduce((sum, line) => sum + Number(line.completed), 0))} completed and ${number(busy.reduce((sum, line) => sum + Number(line.failed), 0))} failed in the last hour`}></div>
    <details class="more"><summary>As a table</summary><div class="scroll-x" tabindex="0" role="group" aria-label=${label}><table class="table"><thead><tr><th scope="col">Minute, UTC</th><th scope="col" class="num">Enqueued</th><th scope="col" class="num">Completed</th><th scope="col" class="num">Failed</th></tr></thead>
      <tbody>${busy.map((line) => html`<tr key=${line.minute}><td>${clock(line.minute).slice(0, 5)}</td><td class="num">${number(Number(line.enqueued))}</td><td class="num">${number(Number(line.completed))}</td><td class="num">${number(Number(line.failed))}</td></tr>`)}</tbody></table></div></details>
  </div>`;
}
