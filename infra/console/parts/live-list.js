// What a page lists: rows that were read, with what is shown before them and in place of none.

import { html, quiet } from "../lib/ui.js";
import { Stale } from "./states-of-view.js";
import { table } from "./table.js";
import { Unread } from "./unread.js";

/** The rows of a read as a table, once it was read. */
export const listed = ({ of, rows = [], empty, ...options }, columns) =>
  !of.value
    ? html`<${Unread} of=${of} what=${`the ${options.label.toLowerCase()}`} />`
    : rows.length === 0
      ? empty
      : table({ rows, ...options }, columns);

export const liveList = ({ of, what, empty, ...options }, columns) =>
  html`<section class="card" aria-labelledby="h-list">
    <h2 id="h-list">${options.label}</h2>
    ${of.isStale && html`<${Stale} error=${of.error} retry=${of.refresh} />`}
    ${
      !of.value
        ? html`<${Unread} of=${of} what=${`the ${what}`} />`
        : options.rows.length === 0
          ? empty
          : table(options, columns)
    }
    ${
      of.more &&
      html`<div class="actions start">
        ${quiet(`Older ${what}`, of.more)}
      </div>`
    }
  </section>`;
