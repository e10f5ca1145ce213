// Actions that change many jobs at once: the selected jobs, or all jobs that match the filter.

import { jobs as api, problems } from "../api.js";
import { pluralize, number } from "../lib/format.js";
import { useStore } from "../lib/store.js";
import { html, quietButton } from "../lib/ui.js";
import { confirm } from "../lib/prompt.js";
import { notify, notifyFailure } from "./toasts.js";

/**
 * Run delayed jobs now, each by its own request. The requests are sent one after the other, because
 * the database runs one change of a person at a time, and rejects those that wait for long. Jobs
 * that have started are not counted.
 */
async function runAll({ body }) {
  let [count, problem] = [0, null];
  for (const id of body.filter.ids) {
    try {
      await api.retry(id);
      count += 1;
    } catch (error) {
      if (error.status !== 409 && error.status !== 404) throw error;
      problem = error;
    }
  }
  if (count === 0) throw problem;
  return { count };
}

const ACTIONS = {
  run: {
    verb: "Run",
    when: " now",
    did: "Started",
    call: runAll,
    text: () => "Each job runs as soon as a worker is free.",
    states: ["scheduled", "retrying"],
  },
  cancel: {
    verb: "Cancel",
    did: "Cancelled",
    call: api.cancelAll,
    text: (states) => {
      const waiting = states.some((state) => state !== "running") && "Waiting jobs end immediately";
      const running = states.includes("running") && "Running jobs end within five seconds";
      return `${[waiting, running, "Child jobs end too"].filter(Boolean).join(". ")}.`;
    },
    states: ["queued", "scheduled", "retrying", "running", "suspended"],
  },
  retry: {
    verb: "Retry",
    did: "Retried",
    call: api.retryAll,
    text: () => "Each job starts again with new attempts. Finished steps are kept.",
    states: ["failed", "cancelled"],
  },
};

/**
 * Count the jobs that an action would change. Return a text such as `12 jobs`, or `1,000+ jobs` if
 * there are more jobs than were counted.
 */
async function countOf(filter) {
  let [count, cursor] = [0, null];
  do {
    const page = await api.page(filter, cursor, 200);
    count += page.jobs.length;
    cursor = page.next;
  } while (cursor && count < 1000);
  return cursor ? `${number(count)}+ jobs` : pluralize(count, "job");
}

/**
 * Remove jobs of the groups of failed jobs from `attention`, which is read again only later.
 */
const forget = (ids) =>
  problems.set(({ attention, ...rest }) => ({
    ...rest,
    attention: attention?.flatMap((group) => {
      const kept = group.job_ids.filter((id) => !ids.includes(id));
      const jobs = group.jobs - group.job_ids.length + kept.length;
      if (group.kind !== "failed") return [group];
      return jobs > 0 ? [{ ...group, jobs, job_ids: kept }] : [];
    }),
  }));

/**
 * Ask for confirmation with the number of jobs, such as `many`, and then change the jobs in
 * batches. Return whether the action changed at least one job.
 * @param present States of the jobs, if they are known.
 */
export async function actOnMany({ workspaceId, action, filter, many, present }) {
  const { verb, when = "", did, text: textOf, call, states } = ACTIONS[action];
  const text = textOf(present ?? states);
  many ??= await countOf({ state: states, ...filter, workspace_id: workspaceId });
  const words = `${verb} ${many}${when}`;
  const danger = action === "cancel";
  if (!(await confirm({ title: `${words}?`, text, action: words, danger }))) return false;
  let count = 0;
  try {
    for (let more = true, cursor = null; more; ) {
      const done = await call({ body: { workspace_id: workspaceId, filter, cursor } });
      count += done.count;
      ({ more, cursor } = done);
    }
    notify(`${did} ${pluralize(count, "job")}`);
    if (filter.ids) forget(filter.ids);
    return true;
  } catch (error) {
    notifyFailure(`Could not ${action}`, error);
    return count > 0;
  }
}

/** Name a number of jobs, with their state or kind of trouble if it is the same for all of them. */
function nameJobs(kinds) {
  const [kind, other] = new Set(kinds);
  const count = kinds.length;
  if (kind === "no_worker" && !other) return `${pluralize(count, "job")} without a worker`;
  return pluralize(count, other || !kind ? "job" : `${kind} job`);
}

/**
 * Bar with the actions for the selected jobs, or for all jobs that match the filter. `all` contains
 * these jobs if all of them are loaded. In the list of jobs that need attention, each kind of
 * trouble has its own buttons. The bar appears below the list, so that no row moves.
 */
export function Selection({ picked, all, state, query, workspaceId, done }) {
  const { attention } = useStore(problems);
  const isPicked = picked.length > 0;
  const rows = isPicked ? picked : all;
  const isMixed = state === "attention";
  const kindOf = (row) =>
    (isMixed && attention?.find((group) => group.job_ids.includes(row.id))?.kind) || row.state;
  const kinds = isMixed && !isPicked ? ["retrying", "no_worker", "silent", "failed"] : [""];
  const button = (action, kind) => {
    const { verb, when, states } = ACTIONS[action];
    const jobs = rows?.filter((row) => states.includes(row.state) && kindOf(row).includes(kind));
    if (jobs ? jobs.length === 0 : when || (state && !states.includes(state))) return null;
    const many = jobs && nameJobs(jobs.map(kindOf));
    const filter = jobs ? { ids: jobs.map(({ id }) => id), state: states } : query;
    const present = jobs ? jobs.map((row) => row.state) : query.state;
    const act = { workspaceId, action, filter, many, present };
    return html`<button
      type="button"
      key=${action + kind}
      class=${!isPicked ? "quiet" : action === "cancel" ? "danger" : ""}
      onClick=${async () => (await actOnMany(act)) && done()}>
      ${verb} ${many ?? `all ${state ?? ""} jobs`}${when}
    </button>`;
  };
  const buttons = Object.keys(ACTIONS)
    .flatMap((action) => kinds.map((kind) => button(action, kind)))
    .filter(Boolean);
  if (buttons.length === 0) return null;
  return html`<div class="selection" role="region" aria-label="Selected jobs">
    <span class="num">
      ${isPicked ? `${nameJobs(rows.map(kindOf))} selected` : !rows && "All jobs that match"}
    </span>
    <span class="spacer"></span>
    ${buttons} ${isPicked && quietButton("Clear", done)}
  </div>`;
}
