// Actions that change many jobs at once: the selected jobs, or all jobs that match the filter.

import { jobs as api } from "../api.js";
import { pluralize, number } from "../lib/format.js";
import { STATES, statusOf } from "../lib/states.js";
import { html, quietButton } from "../lib/ui.js";
import { confirm } from "../lib/prompt.js";
import { notify, notifyFailure } from "./toasts.js";

const LIVE = ["pending", "processing", "waiting"];
const APPLIES = { cancel: LIVE, retry: ["failed", "cancelled"] };
const ACTIONS = {
  cancel: {
    verb: "Cancel",
    did: "Cancelled",
    call: api.cancelAll,
    text: "Waiting jobs end immediately, running jobs within five seconds, and so do child jobs.",
  },
  retry: {
    verb: "Retry",
    did: "Retried",
    call: api.retryAll,
    text: "Each job starts again with new attempts. Finished steps are kept.",
  },
};

/**
 * Count the jobs that an action would change. Return a text such as `12 jobs`, or `1,000+ jobs` if
 * there are more jobs than were counted.
 */
async function countOf(filter, action) {
  let [count, cursor] = [0, null];
  do {
    const page = await api.page({ status: APPLIES[action], ...filter }, cursor, 200);
    count += page.jobs.length;
    cursor = page.next;
  } while (cursor && count < 1000);
  return cursor ? `${number(count)}+ jobs` : pluralize(count, "job");
}

/**
 * Ask for confirmation with the number of jobs, and then change the jobs in batches. Return whether
 * the action changed at least one job.
 */
export async function actOnMany({ workspaceId, action, filter, known }) {
  const { verb, did, text, call } = ACTIONS[action];
  const many =
    known === undefined
      ? await countOf({ ...filter, workspace_id: workspaceId }, action)
      : pluralize(known, "job");
  const question = { title: `${verb} ${many}?`, text, action: `${verb} ${many}` };
  if (!(await confirm({ ...question, danger: action === "cancel" }))) return false;
  let count = 0;
  try {
    for (let more = true, cursor = null; more; ) {
      const done = await call({ body: { workspace_id: workspaceId, filter, cursor } });
      count += done.count;
      ({ more, cursor } = done);
    }
    notify(`${did} ${pluralize(count, "job")}`);
    return true;
  } catch (error) {
    notifyFailure(`Could not ${action}`, error);
    return count > 0;
  }
}

/**
 * Bar with the actions for the selected jobs, or for all jobs that match the filter. `all` contains
 * these jobs if all of them are loaded. The bar appears below the list, so that no row moves.
 */
export function Selection({ picked, all, state, query, workspaceId, done }) {
  const isPicked = picked.length > 0;
  const rows = isPicked ? picked : all;
  const idsFor = (action) =>
    rows?.filter((row) => APPLIES[action].includes(row.status)).map((row) => row.id);
  const run = async (action) => {
    const ids = idsFor(action);
    const filter = isPicked ? { ids, status: APPLIES[action] } : query;
    if (await actOnMany({ workspaceId, action, filter, known: ids?.length })) done();
  };
  const isOf = (action) => !state || APPLIES[action].includes(statusOf(state));
  const actions = Object.keys(ACTIONS).filter((action) =>
    rows ? idsFor(action).length > 0 : isOf(action),
  );
  if (actions.length === 0) return null;
  const word = state ? STATES[state].word.toLowerCase() : "";
  const count = rows && pluralize(rows.length, "job");
  const matching = all ? `${count} ${word || "found"}` : `All ${word} jobs that match`;
  return html`<div class="selection" role="region" aria-label="Selected jobs">
    <span class="num">${isPicked ? `${count} selected` : matching}</span>
    <span class="spacer"></span>
    ${actions.map(
      (action) => html`<button
        type="button"
        key=${action}
        class=${!isPicked ? "quiet" : action === "cancel" ? "danger" : ""}
        onClick=${() => run(action)}>
        ${ACTIONS[action].verb} ${!isPicked && "all "}${rows && number(idsFor(action).length)}
      </button>`,
    )}
    ${isPicked && quietButton("Clear", done)}
  </div>`;
}
