// Facts of what a page shows: figures in cards, a list of names and values, links to jobs.

import { shortId } from "../lib/format.js";
import { html } from "../lib/ui.js";
import { column } from "./table.js";
import { When } from "./when.js";

/** @param {string} name @param {string} value @param {unknown} [note] */
export const figure = (name, value, note) =>
  html`<div class="card figure">
    <p class="figure-name muted">${name}</p>
    <p class="figure-value num">${value}</p>
    <p class="muted small">${note ?? "\u00a0"}</p>
  </div>`;

/** A line of a list of facts; nothing without a value. @param {string} name @param {unknown} value */
export const fact = (name, value) =>
  value !== null &&
  value !== undefined &&
  value !== false &&
  html`<div><dt>${name}</dt><dd>${value}</dd></div>`;

/** A job by the end of its id; a dash for none. @param {string | null | undefined} id @param {() => void} [onClick] */
export const jobLink = (id, onClick) =>
  id ? html`<a class="mono" href=${`/jobs/${id}`} onClick=${onClick}>${shortId(id)}</a>` : "–";

/** When a schedule runs, as columns. @type {import("./table.js").Column<{cron: string, timezone: string, enabled: boolean, next_at: string | null}>[]} */
export const SCHEDULE_COLUMNS = [
  column(
    "When",
    "mono small",
    (one) => html`${one.cron} <span class="muted">${one.timezone}</span>`,
  ),
  column("Next run", (one) =>
    !one.enabled ? "–" : one.next_at ? html`<${When} at=${one.next_at} />` : "never",
  ),
];
