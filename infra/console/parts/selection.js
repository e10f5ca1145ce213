// What can be done to chosen jobs, or to all that match.

import { counted, number } from "../lib/format.js";
import { STATES, statusOf } from "../lib/states.js";
import { html } from "../lib/ui.js";
import { quiet } from "./button.js";
import { ACTIONS, operate } from "./operate.js";

/** @import { BulkAction, BulkFilter } from "../api.js" */
/** @import { JobList } from "../lib/job-list.js" */
/** @import { Counts, Row } from "./job-monitor.js" */

const LIVE = ["pending", "processing", "waiting"];
/** @type {Record<BulkAction, string[]>} */
const APPLIES = {
  cancel: LIVE,
  retry: ["failed", "cancelled"],
};
const NAMES = /** @type {BulkAction[]} */ (Object.keys(APPLIES));

/**
 * What can be done to the chosen jobs, or to all that match; each says how many it touches. It stands
 * below the table: above, it would move the rows from under the pointer when it comes and goes.
 *
 * @param {{picked: Row[], total: Counts | null, filter: Record<string, string | undefined>, workspaceId: string,
 *   list: {current: JobList}, clear: () => void}} props `filter` as the list asks for it.
 */
export function Selection({ picked, total, filter, workspaceId, list, clear }) {
  const { state, payload, min_run_ms: ran, ...rest } = filter;
  const named = Object.entries(rest).filter(
    ([name, value]) => value && name !== "sort" && name !== "order",
  );
  const where = /** @type {BulkFilter} */ ({
    ...Object.fromEntries(named),
    ...(payload && { payload: JSON.parse(payload) }),
    ...(ran && { min_run_ms: Number(ran) }),
    ...(state && { state: [state] }),
  });
  const status = state ? (statusOf(state) ?? "pending") : null;
  const isPlain = named.every(([name]) => name === "job_type" || name === "queue");
  const sure =
    state && isPlain && !payload && !ran && !total?.at_least?.includes(status ?? "")
      ? total?.states[state]
      : undefined;

  const pickedFor = (/** @type {BulkAction} */ action) =>
    picked.filter((row) => APPLIES[action].includes(row.status));
  const actOnPicked = async (/** @type {BulkAction} */ action) => {
    const rows = pickedFor(action);
    const ids = rows.map((row) => row.id);
    const states = APPLIES[action].filter((one) => rows.some((row) => row.status === one));
    const chosen = { ids, status: action === "cancel" ? LIVE : states };
    if (!(await operate({ workspaceId, action, filter: chosen, known: ids.length }))) return;
    clear();
    list.current.refresh();
  };
  const actOnAll = async (/** @type {BulkAction} */ action) => {
    if (await operate({ workspaceId, action, filter: where, known: sure })) list.current.refresh();
  };

  const isAny = sure !== 0 && (state || Object.keys(where).length > 0);
  if (picked.length === 0 && !isAny) return null;
  const matching = state ? STATES[/** @type {keyof STATES} */ (state)].word.toLowerCase() : "";
  const all =
    sure === undefined ? `All ${matching} jobs that match` : `${counted(sure, "job")} ${matching}`;
  return html`<div class="selection" role="region" aria-label="Selected jobs">
    <span class="num">
      ${picked.length > 0 ? `${counted(picked.length, "job")} selected` : all}
    </span>
    <span class="spacer"></span>
    ${
      picked.length > 0
        ? html`
          ${NAMES.map((action) => {
            const count = pickedFor(action).length;
            return (
              count > 0 &&
              html`<button
                type="button"
                key=${action}
                class=${action === "cancel" ? "danger" : ""}
                onClick=${() => actOnPicked(action)}>
                ${ACTIONS[action].verb} ${number(count)}
              </button>`
            );
          })}
          ${quiet("Clear", clear)}
        `
        : NAMES.filter((action) => !status || APPLIES[action].includes(status)).map(
            (action) =>
              html`<button
                type="button"
                key=${action}
                class="quiet"
                onClick=${() => actOnAll(action)}>
                ${ACTIONS[action].verb} all${sure === undefined ? "" : ` ${number(sure)}`}
              </button>`,
          )
    }
  </div>`;
}
