// How long ended jobs are kept, and what was removed since.

import { counted, number } from "../lib/format.js";
import { useRead } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { operations } from "../operations.js";
import { StateBadge } from "./badge.js";
import { When } from "./when.js";
import { Unread } from "./unread.js";

/** @import { Retention as Found, RetentionDays } from "../lib/routes.js" */

/** @type {(keyof RetentionDays)[]} */
const OUTCOMES = ["completed", "cancelled", "failed"];
const kept = (/** @type {number} */ days) =>
  days === 0 ? "removed at once" : counted(days, "day");

/** Sums over days, by outcome. Pure. */
const removedIn = (/** @type {RetentionDays[]} */ days) =>
  OUTCOMES.map((outcome) => days.reduce((sum, day) => sum + day[outcome], 0));

/** @param {{workspaceId: string}} props */
export function Retention({ workspaceId }) {
  const found = useRead((signal) => operations.retention(workspaceId, { signal }), [workspaceId]);
  return html`<section class="card" aria-labelledby="h-retention">
    <h2 id="h-retention">Retention</h2>
    ${body(found)}
  </section>`;
}

function body(/** @type {import("../lib/store.js").Read<Found>} */ found) {
  if (!found.value) return html`<${Unread} of=${found} what="the retention" />`;
  const { days, types, removed, checked_at: checkedAt } = found.value;
  const lines = [
    ["Kept for", ...OUTCOMES.map((outcome) => kept(days[outcome]))],
    ...types.map(({ job_type: type, days: own }) => [
      `of type ${type}`,
      ...OUTCOMES.map((outcome) => kept(own[outcome])),
    ]),
    ["Removed in 30 days", ...removedIn(removed).map((sum) => number(sum))],
  ];
  const last = removed[0];
  return html`
    <div class="scroll-x" tabindex="0" role="group" aria-label="Retention">
      <table class="table">
        <thead>
          <tr>
            <th scope="col">Ended jobs</th>
            ${OUTCOMES.map(
              (outcome) => html`<th scope="col" class="num" key=${outcome}>
                <${StateBadge} status=${outcome} />
              </th>`,
            )}
          </tr>
        </thead>
        <tbody>
          ${lines.map(
            ([name, ...values]) => html`<tr key=${name}>
              <th scope="row">${name}</th>
              ${values.map(
                (value, index) => html`<td class="num" key=${OUTCOMES[index]}>
                  ${value}
                </td>`,
              )}
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
    <p class="muted small">
      ${last ? html`Last removed <${When} at=${last.removed_at} />, with logs and events.` : "Nothing had to be removed in the last 30 days."}
      ${checkedAt && html` Checked <${When} at=${checkedAt} />.`}
    </p>
  `;
}
