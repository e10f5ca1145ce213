// Rows under named columns: one way to draw a table, for eyes, screen readers and phones.

import { html } from "../lib/ui.js";

/** @typedef {import("preact").ComponentChildren} Children */
/**
 * @template T
 * @typedef {{name: string, className: string, cell: (row: T) => Children, isHeading: boolean}} Column
 */

/**
 * A column. `Actions` has its name for screen readers alone; the classes `num` and `phone-less` are of the head too.
 *
 * @template T
 * @overload
 * @param {string} name
 * @param {(row: T) => Children} cell
 * @returns {Column<T>}
 */
/**
 * @template T
 * @overload
 * @param {string} name
 * @param {string} className
 * @param {(row: T) => Children} cell
 * @returns {Column<T>}
 */
/**
 * @param {string} name
 * @param {any[]} rest
 * @returns {Column<any>}
 */
export function column(name, ...rest) {
  return { name, className: rest.length === 2 ? rest[0] : "", cell: rest.at(-1), isHeading: false };
}

/** The column that names the row. @type {typeof column} */
export const heading = (/** @type {string} */ name, /** @type {any[]} */ ...rest) => ({
  .../** @type {any} */ (column)(name, ...rest),
  isHeading: true,
});

const ofHead = (/** @type {string} */ className) =>
  className.match(/\b(num|phone-less)\b/g)?.join(" ");

/**
 * A table that scrolls sideways where it is too wide.
 *
 * @template T
 * @param {{label: string, rows: T[], key: (row: T) => string | number, cards?: boolean,
 *   className?: string, attributes?: (row: T) => object}} options With `cards` each row is a card on a phone;
 *   `attributes` are more of a row's element.
 * @param {Column<T>[]} columns
 */
export const table = ({ label, rows, key, cards = false, className = "", attributes }, columns) =>
  html`<div class=${`scroll-x ${className}`} tabindex="0" role="group" aria-label=${label}>
    <table class=${cards ? "table cards" : "table"}>
      <thead>
        <tr>
          ${columns.map(({ name, className: of }) =>
            name === "Actions"
              ? html`<th scope="col" key=${name}><span class="hidden">${name}</span></th>`
              : html`<th scope="col" key=${name} class=${ofHead(of)}>${name}</th>`,
          )}
        </tr>
      </thead>
      <tbody>
        ${rows.map(
          (row) => html`<tr key=${key(row)} ...${attributes?.(row)}>
            ${columns.map(({ name, cell, className: of, isHeading }) =>
              isHeading
                ? html`<th scope="row" key=${name} class=${of}>${cell(row)}</th>`
                : html`<td
                  key=${name}
                  class=${of}
                  data-label=${cards && name !== "Actions" ? name : undefined}>
                  ${cell(row)}
                </td>`,
            )}
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
