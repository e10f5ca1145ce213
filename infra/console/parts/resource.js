// ResourceView: a page that lists one kind of thing, kept fresh, with what can be done to each.

import { number } from "../lib/format.js";
import { usePolling, useRead } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { Tag } from "./badge.js";
import { ActionButton } from "./dialog.js";
import { pageHead, Stale, Unread } from "./states-of-view.js";
import { column, table } from "./table.js";
import { actionsOn } from "./toasts.js";

const EVERY_MS = 10_000;
const MOST_UNFOLDED = 25;

/** On, off, or what is wrong with it. */
export const OnOff = ({ isOn, problem = null }) =>
  problem === null
    ? html`<${Tag} tone=${isOn ? "completed" : "pending"}>${isOn ? "On" : "Off"}<//>`
    : html`<${Tag} tone="failed">Problem<//> <span class="wrap">${problem}</span>`;

/**
 * `read` gives the rows; `actions(row, act)` their buttons as `[words, run]`, where `act` says why something
 * failed and reads again; `add` is `[words, Dialog]`, whose dialog gets `like` (a row to edit) and `onClose`; of a
 * long list the rows that `aside` picks are folded below the others.
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
  aside,
  children,
}) {
  const rows = useRead(read, inputs);
  const [editing, setEditing] = useState(null);
  usePolling(rows, EVERY_MS);
  const act = actionsOn(rows.refresh);
  const [words, Editor] = add || [];
  const button = ([verb, run], row) =>
    html`<${ActionButton} key=${verb} className="quiet" run=${run} aria-label=${`${verb} ${nameOf(row)}`}>
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
  const list = (shown) => table({ label: name, rows: shown, key, cards: true }, all);
  const rest = rows.value?.length > MOST_UNFOLDED && aside ? rows.value.filter(aside.is) : [];
  return html`<div class="page">
    ${pageHead(
      name,
      of,
      words &&
        html`<button type="button" class="primary" onClick=${() => setEditing({})}>${words}</button>`,
    )}
    ${rows.isStale && html`<${Stale} error=${rows.error} retry=${rows.refresh} />`}
    <section class="card" aria-label=${name}>
      ${
        !rows.value
          ? html`<${Unread} of=${rows} what=${`the ${name.toLowerCase()}`} />`
          : rows.value.length === 0
            ? empty
            : list(rows.value.filter((row) => !rest.includes(row)))
      }
    </section>
    ${
      rest.length > 0 &&
      html`<details class="card more">
        <summary>${number(rest.length)} ${aside.words}</summary>
        ${list(rest)}
      </details>`
    }
    ${children}
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
