// Cancel, retry or replay many jobs: how many first, then an operation, which continues without the page.

import { bulk, once } from "../api.js";
import { counted, number } from "../lib/format.js";
import { askFor } from "./dialog.js";
import { notify, notifyFailure } from "./toasts.js";

/** @import { BulkAction, BulkFilter } from "../api.js" */

/** @type {Record<BulkAction, {verb: string, did: string, doing: string, text: string}>} */
export const ACTIONS = {
  cancel: {
    verb: "Cancel",
    did: "Cancelled",
    doing: "Cancelling",
    text: "Pending and waiting jobs end at once; running ones stop within a heartbeat. Child jobs are cancelled too.",
  },
  retry: {
    verb: "Retry",
    did: "Retried",
    doing: "Retrying",
    text: "Each starts again with fresh attempts; finished steps are kept.",
  },
  replay: {
    verb: "Replay",
    did: "Replayed",
    doing: "Replaying",
    text: "Each runs again from its start as a new job with the same payload; the old ones stay.",
  },
};

/**
 * Say how many jobs it touches, ask, and begin.
 *
 * @param {{workspaceId: string, action: BulkAction, filter: BulkFilter, known?: number}} what `known` is how many
 *   match, where that is sure.
 * @returns {Promise<boolean>} Whether it has begun.
 */
export async function operate({ workspaceId, action, filter, known }) {
  const { verb, did, doing, text } = ACTIONS[action];
  const wanted = { workspace_id: workspaceId, action, filter };
  try {
    const found =
      known === undefined ? await bulk.count({ body: wanted }) : { count: known, more: false };
    if (found.count === 0) {
      notify(`No job to ${action} matches`);
      return false;
    }
    const many = found.more ? `${number(found.count)}+ jobs` : counted(found.count, "job");
    const name = await askFor({
      title: `${verb} ${many}?`,
      text: `${text} It continues if you leave, and can be paused, stopped and undone.`,
      action: `${verb} ${many}`,
      danger: action === "cancel",
      field: "Name, if any",
    });
    if (name === null) return false;
    const made = await bulk.create(once({ ...wanted, ...(name && { name }) }));
    const isDone = made.status === "completed";
    const jobs = counted(isDone ? made.done : made.matched, "job");
    const others = made.skipped + made.failed;
    notify(
      isDone ? `${did} ${jobs}${others ? `, ${number(others)} left out` : ""}` : `${doing} ${jobs}`,
      { href: `/bulk-operations/${made.id}`, label: isDone ? "Show or undo" : "Follow" },
    );
    return true;
  } catch (error) {
    notifyFailure(`Could not ${action}`, error);
    return false;
  }
}
