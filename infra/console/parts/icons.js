// Small drawings, 16 by 16, in the colour of their text. They decorate; words say what is meant.

import { html } from "../lib/ui.js";

/** A stroked path. */
const path = (d, width = 1.4, cap, join) =>
  html`<path
    d=${d}
    fill="none"
    stroke="currentColor"
    stroke-width=${width}
    stroke-linecap=${cap}
    stroke-linejoin=${join} />`;
const line = (d, width = 1.4) => path(d, width, "round");
const joined = (d) => path(d, 1.4, undefined, "round");
const rounded = (d, width = 1.4) => path(d, width, "round", "round");
const circle = (cx, cy, r, width = 1.4) =>
  html`<circle cx=${cx} cy=${cy} r=${r} fill="none" stroke="currentColor" stroke-width=${width} />`;
const box = (x, y, wide, high, rx, width = 1.4) =>
  html`<rect
    x=${x}
    y=${y}
    width=${wide}
    height=${high}
    rx=${rx}
    fill="none"
    stroke="currentColor"
    stroke-width=${width} />`;

const PATHS = {
  ring: circle(8, 8, 4.25, 1.75),
  dot: html`<circle cx="8" cy="8" r="5" fill="currentColor" />`,
  again: rounded("M12.5 8a4.5 4.5 0 1 1-1.4-3.25M12.5 2.5v2.75H9.75", 1.6),
  pause: line("M5.5 4v8M10.5 4v8", 2),
  check: rounded("m3.5 8.5 3 3 6-7", 2),
  cross: line("m4.5 4.5 7 7m0-7-7 7", 2),
  slash: line("M4 8h8", 2),
  search: [circle(7, 7, 4.25, 1.5), line("m10.5 10.5 3 3", 1.5)],
  jobs: line("M2.5 4h11M2.5 8h11M2.5 12h7", 1.5),
  pulse: rounded("M1.5 8.5h3l2-5 3 9 2-4h3", 1.5),
  gauge: line("M2.5 12a6.25 6.25 0 1 1 11 0M8 9.5l2.75-3.75", 1.5),
  building: rounded("M3.5 13.5v-11h6v11m0-7h3v7M2 13.5h12M5.5 5h2m-2 2.5h2m-2 2.5h2", 1.3),
  person: [circle(8, 5, 2.75), line("M2.75 13.5c.5-3 2.6-4.25 5.25-4.25s4.75 1.25 5.25 4.25")],
  key: [circle(5, 8, 2.75), line("M7.75 8h6.5v2.25M11.5 8v2")],
  speech: rounded("M2.5 3h11v7.5H8.25L5 13.25V10.5H2.5z"),
  steps: rounded("m2 4.25 1.25 1.25L5.5 3M2 11.25l1.25 1.25L5.5 10M8 4.5h6M8 11.5h6"),
  film: [
    box(2, 3, 12, 10, 1.5),
    html`<path d="m6.75 5.75 3.5 2.25-3.5 2.25z" fill="currentColor" />`,
  ],
  menu: line("M2.5 4.5h11m-11 3.5h11m-11 3.5h11", 1.5),
  warning: rounded("M8 2.25 14.25 13.5H1.75zM8 6.5v3.25M8 11.4v.35"),
  clock: [circle(8, 8, 5.75), line("M8 4.75V8l2.25 1.5")],
  send: joined("M14 2 7.25 8.75M14 2 9.75 14l-2.5-5.25L2 6.25z"),
  shapes: [
    box(2.25, 2.25, 5, 5, 1),
    circle(11.5, 4.75, 2.4),
    joined("M4.75 9.5 7.25 13.75h-5zM9.25 9.25h4.5v4.5h-4.5z"),
  ],
  copy: [
    box(5.5, 5.5, 8, 8, 1.5, 1.3),
    path("M10.5 5.5v-2a1 1 0 0 0-1-1h-6a1 1 0 0 0-1 1v6a1 1 0 0 0 1 1h2", 1.3),
  ],
};

export const Icon = ({ name }) =>
  html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false">
    ${PATHS[name]}
  </svg>`;

/** The mark: a clock's face whose minute hand has just moved. */
export const Logo = () =>
  html`<svg class="logo" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
    <circle
      cx="12"
      cy="12"
      r="9.5"
      fill="none"
      stroke="currentColor"
      stroke-width="1.8"
      opacity=".35" />
    <path
      d="M12 2.5a9.5 9.5 0 0 1 8.2 4.75"
      fill="none"
      stroke="var(--accent)"
      stroke-width="2.4"
      stroke-linecap="round" />
    <path d="M12 12 17.6 8.8" stroke="var(--accent)" stroke-width="2.4" stroke-linecap="round" />
    <circle cx="12" cy="12" r="1.7" fill="currentColor" />
  </svg>`;
