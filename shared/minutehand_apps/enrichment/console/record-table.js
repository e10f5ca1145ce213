// The table that accounts and contacts share: virtual rows of one height, with selection.

import { counted } from "../../lib/format.js";
import { classes, html, useEffect } from "../../lib/ui.js";
import { useVirtual } from "../../lib/virtual.js";
import { Failed, Loading, Stale } from "../../parts/states-of-view.js";

/** @import { ComponentChild, VNode } from "preact" */
/** @import { Records } from "./records.js" */
/**
 * @template R
 * @typedef {{head: ComponentChild, cell: (row: R) => ComponentChild, num?: boolean, width?: string,
 *   wide?: boolean}} Column `wide` ones disappear where there is no room.
 */

const ROW = 40;

/**
 * @template {{id: string}} R
 * @param {{label: string, records: Records<R>, columns: Column<R>[], empty: VNode, chosen?: Set<string>,
 *   setChosen?: (chosen: Set<string>) => void, nameOf: (row: R) => string}} props Rows can be selected with `chosen`.
 */
export function RecordTable({ label, records, columns, empty, chosen, setChosen, nameOf }) {
  const { rows, error, isLoading, next } = records;
  const view = useVirtual({ count: rows.length, rowHeight: ROW });
  useEffect(() => {
    if (next && !error && !isLoading && view.last > rows.length - 20) records.more();
  }, [view.last, rows.length, next, isLoading]);
  const all = chosen && rows.length > 0 && rows.every((row) => chosen.has(row.id));
  const toggle = (/** @type {string} */ id) => {
    const now = new Set(chosen);
    if (!now.delete(id)) now.add(id);
    setChosen?.(now);
  };
  const kind = (/** @type {Column<R>} */ column) =>
    classes(column.num && "num", column.wide && "wide-only");
  if (rows.length === 0) {
    if (isLoading) return html`<${Loading} what=${`Reading ${label.toLowerCase()}`} />`;
    return error
      ? html`<${Failed}
        error=${error}
        retry=${records.refresh}
        what=${`The ${label.toLowerCase()} could not be read`} />`
      : empty;
  }
  return html`
    ${error && html`<${Stale} error=${error} retry=${records.refresh} />`}
    <div
      class="table-scroll records"
      ref=${view.ref}
      tabindex="0"
      role="region"
      aria-label=${label}>
      <table class="table records-table">
        <thead>
          <tr>
            ${
              chosen &&
              html`<th scope="col" class="c-check">
                <label class="tick">
                  <input
                    type="checkbox"
                    checked=${all}
                    onChange=${() => setChosen?.(all ? new Set() : new Set(rows.map((row) => row.id)))} />
                  <span class="hidden">Select all loaded ${label.toLowerCase()}</span>
                </label>
              </th>`
            }
            ${columns.map(
              (column) => html`<th
                scope="col"
                class=${kind(column)}
                style=${column.width ? { width: column.width } : undefined}>
                ${column.head}
              </th>`,
            )}
          </tr>
        </thead>
        <tbody>
          ${
            view.before > 0 &&
            html`<tr class="spacer-row" aria-hidden="true" key="before">
              <td style=${{ height: `${view.before}px` }}></td>
            </tr>`
          }
          ${rows.slice(view.first, view.last).map(
            (row) => html`<tr
              key=${row.id}
              class=${classes("record-row", chosen?.has(row.id) && "chosen")}
              data-record=${row.id}>
              ${
                chosen &&
                html`<td>
                  <label class="tick">
                    <input
                      type="checkbox"
                      checked=${chosen.has(row.id)}
                      onChange=${() => toggle(row.id)} />
                    <span class="hidden">Select ${nameOf(row)}</span>
                  </label>
                </td>`
              }
              ${columns.map((column) => html`<td class=${kind(column)}>${column.cell(row)}</td>`)}
            </tr>`,
          )}
          ${
            view.after > 0 &&
            html`<tr class="spacer-row" aria-hidden="true" key="after">
              <td style=${{ height: `${view.after}px` }}></td>
            </tr>`
          }
        </tbody>
      </table>
    </div>
    <p class="muted small foot num">
      ${next ? `${counted(rows.length, "row")} loaded, more below` : counted(rows.length, "row")}
    </p>
  `;
}
