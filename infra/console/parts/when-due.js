// When a schedule runs, as columns of a table.

import { html } from "../lib/ui.js";
import { column } from "./table.js";
import { When } from "./when.js";

export const WHEN = [
  column(
    "When",
    "mono small nowrap",
    (one) => html`${one.cron} <span class="muted">${one.timezone}</span>`,
  ),
  column("Next run", (one) =>
    !one.enabled ? "–" : one.next_at ? html`<${When} at=${one.next_at} />` : "never",
  ),
];
