// Cancel or retry many jobs: how many first, then batch after batch.

import { bulk } from "../api.js";
import { counted } from "../lib/format.js";
import { askFor } from "./dialog.js";
import { notify, notifyFailure } from "./toasts.js";

/** @import { BulkAction, BulkFilter } from "../api.js" */

/** @type {Record<BulkAction, {verb: string, did: string, text: string}>} */
export const ACTIONS = {
  cancel: {
    verb: "Cancel",
    did: "Cancelled",
    text: "Pending and waiting jobs end at once; running ones stop within a heartbeat. Child jobs are cancelled too.",
  },
  retry: {
    verb: "Retry",
    did: "Retried",
    text: "Each starts again with fresh attempts; finished steps are kept.",
  },
};

/**
 * Say how many jobs it touches, ask, and act.
 *
 * @param {{workspaceId: string, action: BulkAction, filter: BulkFilter, known?: number}} what `known` is how many
 *   match, where that is sure.
 * @returns {Promise<boolean>} Whether it was done.
 */
export async function operate({ workspaceId, action, filter, known }) {
  const { verb, did, text } = ACTIONS[action];
  const many = known === undefined ? "all jobs that match" : counted(known, "job");
  let count = 0;
  try {
    if (
      (await askFor({
        title: `${verb} ${many}?`,
        text,
        action: `${verb} ${many}`,
        danger: action === "cancel",
      })) === null
    )
      return false;
    for (let more = true; more; ) {
      const done = await bulk[action]({ body: { workspace_id: workspaceId, filter } });
      count += done.count;
      more = done.more;
    }
    notify(`${did} ${counted(count, "job")}`);
    return true;
  } catch (error) {
    notifyFailure(`Could not ${action}`, error);
    return count > 0;
  }
}
