// What a page lists: rows that were read, with what is shown before them and in place of none.

import { html } from "../lib/ui.js";
import { quiet } from "./button.js";
import { Stale } from "./states-of-view.js";
import { table } from "./table.js";
import { Unread } from "./unread.js";

/** @import { Children, Column } from "./table.js" */

/**
 * The rows of a read as a table, once it was read.
 *
 * @template T
 * @param {{of: Pick<import("../lib/store.js").Read<any>, "value" | "error" | "refresh">, rows: T[] | undefined, empty: Children,
 *   label: string, key: (row: T) => string | number, cards?: boolean, className?: string}} options `empty` is shown in
 *   place of no rows.
 * @param {Column<T>[]} columns
 */
export const listed = ({ of, rows = [], empty, ...options }, columns) =>
  !of.value
    ? html`<${Unread} of=${of} what=${`the ${options.label.toLowerCase()}`} />`
    : rows.length === 0
      ? empty
      : table({ rows, ...options }, columns);

/**
 * @template T
 * @param {{of: import("../lib/store.js").Read<any> & {more: (() => void) | null}, what: string, label: string, rows: T[],
 *   key: (row: T) => string, cards?: boolean, attributes?: (row: T) => object, empty: Children}} options
 *   `of` as `useLivePages` has it; `what` are these, such as `plans`; `empty` is shown in place of no rows.
 * @param {Column<T>[]} columns
 */
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
