// Page that lists the resources of one kind, with buttons for their actions. The page reads the
// resources again after changes of jobs and at intervals.

import { useFetch } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { Tag } from "./badge.js";
import { ActionButton } from "./dialog.js";
import { useRefresh } from "./live.js";
import { pageHead, stale } from "./states-of-view.js";
import { column, dataTable } from "./table.js";
import { createAction } from "./toasts.js";

/** Tag that shows whether a resource is switched on, is switched off, or has a problem. */
export const OnOff = ({ isOn, problem = null }) =>
  problem === null
    ? html`<${Tag} tone=${isOn ? "completed" : "pending"}>${isOn ? "On" : "Off"}<//>`
    : html`<${Tag} tone="failed">Problem<//> <span class="wrap">${problem}</span>`;

/**
 * Properties of the component `ResourceView`:
 *
 * - `read` is the function that reads the rows.
 * - `actions(row, {act, edit})` returns the buttons of a row as `[label, run]`.
 * - `add` is `[label, Dialog]`. The component `Dialog` gets the row to edit (`like`) and the
 *   function `onClose`.
 * - `before(rows)` and `after(rows)` return what the page shows above and below the rows.
 */
export function ResourceView({
  name,
  of,
  read,
  inputs,
  rowKey: key,
  nameOf = key,
  columns,
  actions,
  add,
  empty,
  before,
  after,
  children,
}) {
  const rows = useFetch(read, inputs);
  const [editing, setEditing] = useState(null);
  useRefresh(rows);
  const act = createAction(rows.refresh);
  const [words, Editor] = add || [];
  const button = ([verb, run], row) =>
    html`<${ActionButton} key=${verb} className="quiet" run=${run}
      aria-label=${`${verb} ${nameOf(row)}`}>
      ${verb}
    <//>`;
  const all = actions
    ? [
        ...columns,
        column("Actions", "num row-actions", (row) =>
          actions(row, { act, edit: () => setEditing(row) }).map((one) => button(one, row)),
        ),
      ]
    : columns;
  const shown = { of: rows, label: name, rows: rows.value, key, cards: Boolean(actions), empty };
  return html`<div class="page">
    ${pageHead(
      name,
      of,
      words &&
        html`<button type="button" class="primary"
          onClick=${() => setEditing({})}>${words}</button>`,
    )}
    ${stale(rows)} ${rows.value && before?.(rows.value)}
    <section class="card" aria-label=${name}>
      ${dataTable(shown, all)}
    </section>
    ${rows.value && after?.(rows.value)} ${children}
    ${
      editing &&
      html`<${Editor}
        like=${editing}
        onClose=${() => {
          setEditing(null);
          rows.refresh();
        }} />`
    }
  </div>`;
}
