// Icons of 16 by 16 pixels in the colour of the text next to them. Screen readers ignore the icons,
// because the text next to an icon has the same meaning.

import { html } from "../lib/ui.js";

/**
 * SVG paths of each icon, with the width of the lines. The icons of job states have thicker lines
 * than other icons.
 */
const PATHS = {
  ring: ["M3.75 8a4.25 4.25 0 1 0 8.5 0 4.25 4.25 0 1 0-8.5 0", 1.75],
  dot: ["M8 8h.01", 10],
  again: ["M12.5 8a4.5 4.5 0 1 1-1.4-3.25M12.5 2.5v2.75H9.75", 1.6],
  pause: ["M5.5 4v8M10.5 4v8", 2],
  check: ["m3.5 8.5 3 3 6-7", 2],
  cross: ["m4.5 4.5 7 7m0-7-7 7", 2],
  slash: ["M4 8h8", 2],
  search: ["M2.75 7a4.25 4.25 0 1 0 8.5 0 4.25 4.25 0 1 0-8.5 0M10.5 10.5l3 3"],
  jobs: ["M2.5 4h11M2.5 8h11M2.5 12h7"],
  pulse: ["M1.5 8.5h3l2-5 3 9 2-4h3"],
  gauge: ["M2.5 12a6.25 6.25 0 1 1 11 0M8 9.5l2.75-3.75"],
  building: ["M3.5 13.5v-11h6v11m0-7h3v7M2 13.5h12M5.5 5h2m-2 2.5h2m-2 2.5h2"],
  person: ["M5.25 5a2.75 2.75 0 1 0 5.5 0 2.75 2.75 0 1 0-5.5 0M2.75 13.5c1-5.6 9.5-5.6 10.5 0"],
  key: ["M2.25 8a2.75 2.75 0 1 0 5.5 0 2.75 2.75 0 1 0-5.5 0M7.75 8h6.5v2.25M11.5 8v2"],
  speech: ["M2.5 3h11v7.5H8.25L5 13.25V10.5H2.5z"],
  steps: ["m2 4.25 1.25 1.25L5.5 3M2 11.25l1.25 1.25L5.5 10M8 4.5h6M8 11.5h6"],
  film: ["M2 3h12v10H2zM6.75 5.75l3.5 2.25-3.5 2.25z"],
  menu: ["M2.5 4.5h11m-11 3.5h11m-11 3.5h11"],
  clock: ["M2.25 8a5.75 5.75 0 1 0 11.5 0 5.75 5.75 0 1 0-11.5 0M8 4.75V8l2.25 1.5"],
  send: ["M14 2 7.25 8.75M14 2 9.75 14l-2.5-5.25L2 6.25z"],
  shapes: [
    "M2.25 2.25h5v5h-5zM9.1 4.75a2.4 2.4 0 1 0 4.8 0 2.4 2.4 0 1 0-4.8 0" +
      "M4.75 9.5l2.5 4.25h-5zM9.25 9.25h4.5v4.5h-4.5z",
  ],
  sparkles: [
    "M6 3.5 7.2 6.8 10.5 8 7.2 9.2 6 12.5 4.8 9.2 1.5 8 4.8 6.8zM12 2v3m-1.5-1.5h3M12.5 11v3M11 12.5h3",
  ],
  pen: ["M10.75 3.25l2 2L5.5 12.5l-2.75.75.75-2.75z"],
  up: ["M8 13V3.25M3.75 7.5 8 3.25l4.25 4.25", 2],
  down: ["M8 3v9.75M3.75 8.5 8 12.75l4.25-4.25", 1.75],
  stop: ["M6 6h4v4h-4z", 4],
  download: ["M8 2.5v7.25M4.5 6.5 8 10l3.5-3.5M2.75 13.25h10.5"],
  warning: ["M8 2.25 14.25 13.5H1.75zM8 6.5v3M8 11.5h.01"],
  copy: ["M5.5 5.5h8v8h-8zM10.5 5.5v-2a1 1 0 0 0-1-1h-6a1 1 0 0 0-1 1v6a1 1 0 0 0 1 1h2"],
};

export function Icon({ name }) {
  const [d, width = 1.5] = PATHS[name];
  return html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false">
    <path ...${{ d, "stroke-width": width }} />
  </svg>`;
}

/** Logo of Minutehand, which is a clock face whose minute hand has just moved. */
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
      d="M12 2.5a9.5 9.5 0 0 1 8.2 4.75M12 12 17.6 8.8"
      fill="none"
      stroke="var(--accent)"
      stroke-width="2.4"
      stroke-linecap="round" />
    <circle cx="12" cy="12" r="1.7" fill="currentColor" />
  </svg>`;
