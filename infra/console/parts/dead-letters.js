// Dead letters by what went wrong: one line per fingerprint, each with its redrive.

import { jobs as api, operations } from "../api.js";
import { counted, number } from "../lib/format.js";
import { useRead } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { ActionButton, confirm } from "./dialog.js";
import { Empty, Failed, Loading } from "./states-of-view.js";
import { notify, notifyFailure } from "./toasts.js";
import { When } from "./when.js";

/** @import { BulkCursor } from "../api.js" */
/** @import { DeadLetterGroup } from "../lib/jobs/types.js" */
/** @import { BulkResult } from "../lib/routes.js" */

/** @param {{workspaceId: string}} props */
export function DeadLetters({ workspaceId }) {
  const letters = useRead((signal) => operations.deadLetters(workspaceId, signal), [workspaceId]);
  if (!letters.value)
    return letters.error
      ? html`<${Failed} error=${letters.error} retry=${letters.refresh} what="The dead letters could not be read" />`
      : html`<${Loading} what="Reading dead letters" />`;
  /** @type {{groups: DeadLetterGroup[], more: boolean}} */
  const { groups, more: isCut } = letters.value;
  if (groups.length === 0)
    return html`<${Empty} title="No dead letters">Jobs that run out of attempts, or that cannot succeed, are kept here for you to read and retry.<//>`;
  const redrive = async (/** @type {DeadLetterGroup} */ group) => {
    if (
      !(await confirm({
        title: `Redrive ${counted(group.jobs, "job")}?`,
        text: `Every failed ${group.job_type} job with this error starts again with fresh attempts.`,
        action: `Redrive ${counted(group.jobs, "job")}`,
      }))
    )
      return;
    try {
      let count = 0;
      /** @type {BulkCursor} */
      let cursor = null;
      do {
        /** @type {BulkResult} */
        const result = await api.redriveMany(
          workspaceId,
          {
            job_type: group.job_type,
            ...(group.error_fingerprint && { error_fingerprint: group.error_fingerprint }),
          },
          cursor,
        );
        count += result.count;
        cursor = /** @type {BulkCursor} */ (result.next);
      } while (cursor);
      notify(`Redriven ${counted(count, "job")}`);
    } catch (error) {
      notifyFailure("Not redriven", error);
    }
    letters.refresh();
  };
  return html`${isCut && html`<p class="muted small">Of the youngest ${number(10000)}.</p>`}
    <div class="scroll-x" tabindex="0" role="group" aria-label="Dead letters"><table class="table"><thead><tr><th scope="col" class="num">Jobs</th><th scope="col">Type</th><th scope="col">Error</th><th scope="col">Latest</th><th scope="col">Fingerprint</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
    <tbody>${groups.map(
      (
        group,
      ) => html`<tr key=${`${group.job_type} ${group.error_fingerprint}`}><td class="num strong">${number(group.jobs)}</td><td class="wrap">${group.job_type}</td>
      <td class="wrap wide"><a class="clamp" href=${`/jobs/${group.latest_id}`} title=${group.error_message}>${group.error_message ?? "no message"}</a></td><td><${When} at=${group.last_at} /></td><td class="mono small muted">${group.error_fingerprint ?? "–"}</td>
      <td class="num"><${ActionButton} run=${() => redrive(group)}>Redrive ${number(group.jobs)}<//></td></tr>`,
    )}</tbody></table></div>`;
}
