// Actions that change many jobs at once: the selected jobs, a group of jobs that need attention, or
// all jobs that match the filter.

import { isManager, jobs as api, problems, withIdempotencyKey } from "../api.js";
import { number, pluralize, shortId } from "../lib/format.js";
import { ENDED } from "../lib/jobs/ended.js";
import { html, isPhone, quietButton } from "../lib/ui.js";
import { confirm } from "../lib/prompt.js";
import { copy } from "./copy.js";
import { failureOf } from "./holders.js";
import { useGroups } from "./problem-lines.js";
import { notify, notifyFailure } from "./toasts.js";

/**
 * Change jobs one after the other, because the database runs one change of a person at a time, and
 * rejects those that wait for long. `change` returns the changed or created job, or false for a job
 * that it leaves unchanged. Such jobs, and jobs that have started or ended in the meantime, are not
 * counted. `last` is the last returned job.
 */
const each =
  (change) =>
  async ({ filter, ...options }) => {
    let [count, problem, last] = [0, null, null];
    for (const id of filter.ids) {
      try {
        const job = await change(id, options);
        if (job) [count, last] = [count + 1, job];
      } catch (error) {
        if (error.status !== 409 && error.status !== 404) throw error;
        problem = error;
      }
    }
    if (count === 0 && problem) throw problem;
    return { count, last };
  };

/** Change many jobs with a call for managers, but one job, or jobs of others, with a call for each. */
const oneOrMany = (one, many) => (body) =>
  body.filter.ids?.length === 1 || !isManager() ? each(one)(body) : many({ body });

/** Values of a job whose type no worker has published, unless its enqueue set others. */
const DEFAULTS = { queue: "default", priority: 100 };

/** Enqueue a job again as another type, and cancel it. A repetition creates no second job. */
async function replace(id, { workspace_id, job_type }) {
  const job = await api.get(id);
  if (job.status !== "pending") return false;
  const { payload, tags, session_id, concurrency_key } = job;
  const spec = { workspace_id, job_type, payload, tags, session_id, concurrency_key };
  for (const name in DEFAULTS) if (job[name] !== DEFAULTS[name]) spec[name] = job[name];
  const created = await api.create({ body: { ...spec, idempotency_key: `${id}:${job_type}` } });
  await api.cancel(id);
  return created;
}

/** Return sentences about the groups of `attention` for which `isMeant` returns true. */
const failuresOf = (isMeant) => (problems.get().attention ?? []).filter(isMeant).map(failureOf);

const subjectOf = (isOne) => (isOne ? "The job" : "Each job");

const ACTIONS = {
  restart: {
    verb: "Cancel and retry",
    did: "Requested cancel and retry of",
    call: oneOrMany(
      (id) => api.cancel(id, { body: { retry: true } }),
      ({ body }) => api.cancelAll({ body: { ...body, retry: true } }),
    ),
    text: (states, types, { isOne, steps, children }) =>
      `${subjectOf(isOne)} is stopped and then starts over with all its attempts.${steps}${children ? " Child jobs are cancelled and retried too." : ""} The new attempt may hang in the same place.`,
    states: ["running"],
    kind: "silent",
  },
  replace: {
    verb: "Enqueue",
    did: "Enqueued",
    call: each(replace),
    text: (states, [as], { isOne }) =>
      [
        `${as} is the nearest name that a worker has published.`,
        ...failuresOf(({ job_type: type, error }) => type === as && error),
        `${isOne ? "The" : "Each"} new job gets the payload, tags and keys of the old one, and its queue and priority if they are not the defaults. The old one is then cancelled.`,
      ].join(" "),
    states: ["queued"],
  },
  run: {
    verb: "Run",
    when: "now",
    did: "Started",
    call: oneOrMany((id) => api.retry(id), api.retryAll),
    text: (states, types, { isOne }) =>
      [
        ...failuresOf((group) => group.kind === "retrying" && types.includes(group.job_type)),
        `${subjectOf(isOne)} runs as soon as a worker is free, which uses one of its attempts.`,
      ].join(" "),
    states: ["retrying", "scheduled"],
  },
  retry: {
    verb: "Retry",
    did: "Retried",
    call: oneOrMany((id) => api.retry(id), api.retryAll),
    text: (states, types, { isOne, steps }) =>
      [
        ...failuresOf((group) => group.kind === "failed" && types.includes(group.job_type)),
        `${subjectOf(isOne)} starts over with all its attempts.${steps} If the cause of an error remains, the job fails again.`,
      ].join(" "),
    states: ["failed", "cancelled"],
  },
  copy: {
    verb: "Enqueue",
    when: "again",
    did: "Enqueued",
    call: each((id) => api.replay(id, withIdempotencyKey({}))),
    text: (states, types, { isOne }) =>
      `${isOne ? "The" : "Each"} new job has the payload, the tags and the options of the old one.`,
    states: ["completed"],
  },
  cancel: {
    verb: "Cancel",
    did: "Requested cancellation of",
    call: oneOrMany((id) => api.cancel(id), api.cancelAll),
    text: (states, types, { isOne, children }) => {
      const waiting =
        states.some((state) => state !== "running") &&
        (isOne ? "It ends immediately" : "Waiting jobs end immediately");
      const running =
        states.includes("running") &&
        `${isOne ? "It" : "A running job"} is asked to stop within five seconds`;
      return `${[waiting, running, children && "Child jobs are cancelled too", "No retry follows"].filter(Boolean).join(". ")}.`;
    },
    states: ["queued", "scheduled", "retrying", "running", "suspended"],
    danger: true,
  },
};

/** Actions for selected jobs, in the order of their buttons. */
const BULK = ["restart", "run", "retry", "copy", "cancel"];

/** Read up to 1,000 jobs that match a filter. `more` is true if other jobs match too. */
async function find(filter) {
  let [jobs, cursor] = [[], null];
  do {
    const page = await api.page(filter, { ...cursor, columns: ["id", "state", "job_type"] }, 200);
    jobs = [...jobs, ...page.jobs];
    cursor = page.next;
  } while (cursor && jobs.length < 1000);
  return { jobs, more: Boolean(cursor) };
}

/** Remove jobs from `attention`, which is read again only later. */
const forget = (ids) =>
  problems.set(({ attention, ...rest }) => ({
    ...rest,
    attention: attention?.flatMap((group) => {
      const kept = group.job_ids.filter((id) => !ids.includes(id));
      const jobs = group.jobs - group.job_ids.length + kept.length;
      if (jobs === group.jobs) return [group];
      return jobs > 0 ? [{ ...group, jobs, job_ids: kept, last_jobs: null }] : [];
    }),
  }));

/**
 * Name jobs, with their state and type if it is the same for all of them: `3 silent jobs of
 * import.rows`. One job whose `id` is given is named by it.
 */
function nameJobs(jobs, { more = false, kind, id, type = commonOf(jobs, "job_type") } = {}) {
  const state = kind === "silent" ? kind : commonOf(jobs, "state");
  const noun = state ? `${state} job` : "job";
  const named = id ? `${noun} ${shortId(id)}` : pluralize(jobs.length, noun, more);
  return named + (type ? ` of ${type}` : "");
}

const valuesOf = (jobs, field) => [...new Set(jobs.map((job) => job[field]))];

/** Return the value of a field if it is the same for all jobs. */
function commonOf(jobs, field) {
  const [value, other] = valuesOf(jobs, field);
  return other ? null : value;
}

/** Count jobs by the value of a field, as `3 running, 1 queued`. One value needs no count. */
function countsBy(jobs, field) {
  const groups = [...Map.groupBy(jobs, (job) => job[field])];
  const sizes = groups
    .sort(([, one], [, other]) => other.length - one.length)
    .map(([value, { length }]) => `${number(length)} ${value}`);
  const rest = sizes.splice(8).length;
  if (groups.length === 1) return "";
  return `${sizes.join(", ")}${rest > 0 ? ` and ${number(rest)} more` : ""}`;
}

/** Return the words of an action, such as `Run 3 jobs now`. */
function wordsOf(action, names, as) {
  const { verb, when } = ACTIONS[action];
  return [verb, names, as ? `again as ${as}` : when].filter(Boolean).join(" ");
}

/**
 * Ask for confirmation with the number of jobs, and then change the jobs in batches. Return whether
 * the action changed at least one job.
 * @param jobs Rows of the jobs, if they are known.
 * @param as Type with which the action `replace` enqueues the jobs.
 */
export async function actOnMany({ workspaceId, action, filter, jobs, as }) {
  const { verb, did, text, call, states, danger, kind } = ACTIONS[action];
  const chosen = { state: states, ...filter };
  const found = jobs ? { jobs } : await find({ ...chosen, workspace_id: workspaceId });
  if (found.jobs.length === 0) {
    notify("No job is in this state any more");
    return true;
  }
  const isOne = found.jobs.length === 1 && !found.more;
  const names = nameJobs(found.jobs, { ...found, kind, id: isOne && found.jobs[0].id });
  // a dialog about one job says only what is true of it
  const tree = isOne && (await api.trace(found.jobs[0].id).catch(() => null));
  const [job, ...descendants] = tree?.jobs ?? [];
  const about = {
    isOne,
    steps: job?.steps.every(({ ended_at: end }) => !end) ? "" : " Finished steps are kept.",
    children: !job || descendants.some(({ status }) => !ENDED.has(status)),
  };
  const types = as ? [as] : valuesOf(found.jobs, "job_type");
  const isSure = await confirm({
    title: `${wordsOf(action, names, as)}?`,
    text: [
      ...["state", "job_type"]
        .map((field) => countsBy(found.jobs, field))
        .map((counts) => counts && `${counts}.`),
      text(valuesOf(found.jobs, "state"), types, about),
    ]
      .filter(Boolean)
      .join(" "),
    action: wordsOf(
      action,
      isOne ? "the job" : pluralize(found.jobs.length, "job", found.more),
      as,
    ),
    danger,
  });
  if (!isSure) return false;
  const body = { workspace_id: workspaceId, filter: chosen, ...(as && { job_type: as }) };
  if (filter.ids || !isManager()) chosen.ids = found.jobs.map(({ id }) => id);
  let count = 0;
  try {
    let done = { cursor: null };
    do {
      done = await call({ ...body, cursor: done.cursor });
      count += done.count;
    } while (done.more);
    notify(
      `${did} ${pluralize(count, "job")}${as ? ` as ${as}` : ""}`,
      as && count === 1 ? { href: `/jobs/${done.last.id}`, label: "See it" } : {},
    );
    if (filter.ids) forget(filter.ids);
    return true;
  } catch (error) {
    notifyFailure(`Could not ${verb.toLowerCase()}`, error);
    return count > 0;
  } finally {
    requestAnimationFrame(() => {
      // the button with the focus may have disappeared with its jobs
      if (document.activeElement === document.body) document.querySelector("h1")?.focus();
    });
  }
}

/** Button that runs an action, and then calls `done` if the action changed jobs. */
const actionButton = (act, names, className, done) =>
  html`<button
    type="button"
    key=${act.action}
    class=${className ?? (ACTIONS[act.action].danger && "danger")}
    onClick=${async () => (await actOnMany(act)) && done()}>
    ${wordsOf(act.action, names, act.as)}
  </button>`;

/** Action that resolves the problem of a group of `attention`. */
const REMEDIES = { silent: "restart", no_worker: "replace", retrying: "run", failed: "retry" };

/**
 * Button with the action for a group of `attention`. `rows` has its loaded jobs. Without them, the
 * action reads the jobs.
 */
export function Remedy({ group, rows, workspaceId, done = () => {} }) {
  const { kind, job_ids: ids, nearest: as } = group;
  if (kind === "no_worker" && !as) return null; // only a deploy helps
  const action = REMEDIES[kind];
  const isRead = rows?.length >= ids.length;
  const jobs = isRead
    ? rows.filter(({ state }) => ACTIONS[action].states.includes(state))
    : undefined;
  if (jobs?.length === 0) return null;
  const { length: count } = jobs ?? ids;
  const act = { workspaceId, action, filter: { ids }, jobs, as };
  return actionButton(act, count > 1 && number(count), undefined, done);
}

/**
 * Bar with the actions for the selected jobs, or for all jobs that match the filter. The bar appears
 * below the list, so that no row moves.
 */
export function Selection({ picked, state, query, workspaceId, done }) {
  const groups = useGroups();
  const isPicked = picked.length > 0;
  const isWide = Object.keys(query).every((name) => /^(state|internal)$/.test(name));
  const button = (action) => {
    const { when, states, kind, danger } = ACTIONS[action];
    if (!isPicked) {
      if (when || kind || !isManager()) return null;
      // all jobs of the workspace can only be resolved, in the first state of the action
      if (isWide ? danger || states[0] !== state : state && !states.includes(state)) return null;
      const act = { workspaceId, action, filter: query };
      return actionButton(act, "all matching jobs", "quiet", done);
    }
    const jobs = picked.filter(
      ({ id, state: now }) => states.includes(now) && (!kind || groups.get(id)?.kind === kind),
    );
    if (jobs.length === 0) return null;
    const act = { workspaceId, action, filter: { ids: jobs.map(({ id }) => id) }, jobs };
    // short, so that all buttons fit into a line
    const names =
      kind || commonOf(jobs, "state")
        ? nameJobs(jobs, { kind, type: null }).replace(/ jobs?$/, "")
        : number(jobs.length);
    return actionButton(act, names, action === "copy" ? "quiet" : undefined, done);
  };
  const buttons = BULK.map(button).filter(Boolean);
  if (buttons.length === 0 && !isPicked) return null;
  return html`<div class="selection" role="region" aria-label="Selected jobs">
    ${
      isPicked && [
        html`<span class="num">${isPhone() ? number(picked.length) : nameJobs(picked)} selected</span>`,
        quietButton("Clear", done),
        quietButton("Copy ids", () =>
          copy(picked.map(({ id }) => id).join("\n"), `Copied ${pluralize(picked.length, "id")}`),
        ),
      ]
    }
    <span class="spacer"></span>
    <span class="actions">${buttons}</span>
  </div>`;
}
