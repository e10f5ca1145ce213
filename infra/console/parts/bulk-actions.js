// Actions that change many jobs at once: the selected jobs, or all jobs that match the filter.

import { jobs as api } from "../api.js";
import { pluralize, number } from "../lib/format.js";
import { STATES, statusOf } from "../lib/states.js";
import { html, quietButton } from "../lib/ui.js";
import { confirm } from "../lib/prompt.js";
import { notify, notifyFailure } from "./toasts.js";

const LIVE = ["pending", "processing", "waiting"];
/** Names of the filters that apply to the list of jobs and also to the counts above the list. */
const COUNTED = ["state", "job_type", "queue", "internal"];
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
 * Bar with the actions for the selected jobs. The bar appears below the list, so that no row moves.
 */
export function Selection({ picked, counts, filter, query, workspaceId, done }) {
  const { state } = filter;
  const isPlain = Object.keys(query).every((name) => COUNTED.includes(name));
  const isCounted = state && isPlain && !counts?.at_least.includes(state);
  const total = isCounted ? counts?.states[state] : undefined;
  const pickedFor = (action) => picked.filter((row) => APPLIES[action].includes(row.status));
  const act = async (what) => (await actOnMany({ workspaceId, ...what })) && done();
  const onPicked = (action) => {
    const ids = pickedFor(action).map((row) => row.id);
    return act({ action, filter: { ids, status: APPLIES[action] }, known: ids.length });
  };
  const isOf = (action) => !state || APPLIES[action].includes(statusOf(state));
  const actions = Object.keys(ACTIONS).filter((action) =>
    picked.length > 0 ? pickedFor(action).length > 0 : isOf(action) && total !== 0,
  );
  if (actions.length === 0) return null;
  const word = state ? STATES[state].word.toLowerCase() : "";
  const matching =
    total === undefined ? `All ${word} jobs that match` : `${pluralize(total, "job")} ${word}`;
  return html`<div class="selection" role="region" aria-label="Selected jobs">
    <span class="num">
      ${picked.length > 0 ? `${pluralize(picked.length, "job")} selected` : matching}
    </span>
    <span class="spacer"></span>
    ${actions.map((action) =>
      picked.length > 0
        ? html`<button
          type="button"
          key=${action}
          class=${action === "cancel" ? "danger" : ""}
          onClick=${() => onPicked(action)}>
          ${ACTIONS[action].verb} ${number(pickedFor(action).length)}
        </button>`
        : quietButton(
            `${ACTIONS[action].verb} all${total === undefined ? "" : ` ${number(total)}`}`,
            () => act({ action, filter: query, known: total }),
            { key: action },
          ),
    )}
    ${picked.length > 0 && quietButton("Clear", done)}
  </div>`;
}
