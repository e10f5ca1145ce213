// The page of one job: what it is doing, why, what it did, and what can be done about it.

import { jobs as api, people, supabase } from "../api.js";
import { codeOf, counted, errorLine, money, number } from "../lib/format.js";
import { useJobLines } from "../lib/job-lines.js";
import { ENDED } from "../lib/jobs/sequence.js";
import { makeUseJobStatus } from "../lib/jobs/use-job-status.js";
import { linksOf } from "../lib/remedies.js";
import { nextRunOf } from "../lib/states.js";
import { usePolling, useRead } from "../lib/store.js";
import { hooks, html, useEffect, useRef, useState } from "../lib/ui.js";
import { Freshness, StateBadge, Verdict } from "../parts/badge.js";
import { quiet } from "../parts/button.js";
import { copy, CopyId } from "../parts/copy.js";
import { ActionButton } from "../parts/dialog.js";
import { JobLog } from "../parts/job-log.js";
import { JobProgress } from "../parts/job-progress.js";
import { AttemptsTable, LastFailure } from "../parts/attempts.js";
import { fact, jobLink } from "../parts/facts.js";
import { JsonView } from "../parts/json-view.js";
import { Files } from "../parts/files.js";
import { EditDialog, EnqueueDialog, ReplayDialog, Replays } from "../parts/lazy.js";
import { Question } from "../parts/question.js";
import { Failed, Loading, Stale } from "../parts/states-of-view.js";
import { Steps, useSteps } from "../parts/steps.js";
import { actionsOn } from "../parts/toasts.js";
import { Waterfall } from "../parts/waterfall.js";
import { Sentence, useNow, When } from "../parts/when.js";
import NotFound from "./not-found.js";
import { Unread } from "../parts/unread.js";

/** @import { Workspace } from "../api.js" */
/** @import { Attempt, JobEvent, Step, WatchedJob } from "../lib/jobs/types.js" */
/** @import { ListedJob, Explanation, JobTrace } from "../lib/routes.js" */
/** @import { Read } from "../lib/store.js" */
/** @typedef {ReturnType<typeof useJobStatus>} Watch */
/** @typedef {{id: string, workspace: Workspace}} Props */

const useJobStatus = makeUseJobStatus(hooks, supabase);

const CHILDREN_MS = 2000;
const EXPLAIN_MS = 5000;
const TRACE_MS = 2000;

export const title = (/** @type {{id: string}} */ { id }) => `Job ${id.slice(-8)}`;

/**
 * Attempts, steps, children: read when the job changes state, not with every progress.
 *
 * @param {WatchedJob} job
 */
function useDetails(job) {
  const stamp = `${job.status} ${job.attempts} ${job.fence} ${job.generation} ${job.finished_at}`;
  const attempts = useRead((signal) => api.attempts(job.id, { signal }), [job.id]);
  const steps = useSteps(job.id);
  const children = useRead((signal) => api.descendants(job.id, signal), [job.id]);
  const explained = useRead((signal) => api.explain(job.id, { signal }), [job.id]);
  const trace = useRead((signal) => api.trace(job.id, signal), [job.id]);
  // steps and children are not events of this job
  usePolling(trace, trace.value?.jobs.some((one) => !ENDED.has(one.status)) ? TRACE_MS : null);
  // a child's progress is not an event of its parent
  usePolling(
    children,
    children.value?.some((child) => !ENDED.has(child.status)) ? CHILDREN_MS : null,
  );
  // why it does not run depends on others, whose changes are not events of this job
  usePolling(explained, job.status === "pending" || job.status === "waiting" ? EXPLAIN_MS : null);
  const seen = useRef(stamp);
  useEffect(() => {
    if (seen.current === stamp) return;
    seen.current = stamp;
    for (const read of [attempts, steps, children, explained, trace]) read.refresh();
  }, [stamp]);
  return { attempts, steps, children, explained, trace };
}

const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/**
 * Only an id names a job: without one the database is not asked, since its refusal speaks of types.
 *
 * @param {Props} props
 */
export default function JobPage(props) {
  if (!ID.test(props.id)) return html`<${NotFound} what="job" />`;
  return html`<${Watched} ...${props} />`;
}

/** @param {Props} props */
function Watched({ id }) {
  const watch = useJobStatus({ jobId: id, history: true, cancel: /** @type {any} */ (api.cancel) });
  const { job, missing, problem, freshness } = watch;
  if (missing) return html`<${NotFound} what="job" />`;
  if (!job && problem)
    return html`<div class="page">
      <h1 tabindex="-1">Job</h1>
      <${Failed} error=${problem} retry=${watch.refresh} what="The job could not be read" />
    </div>`;
  if (!job)
    return html`<div class="page">
      <h1 tabindex="-1">Job</h1>
      <${Loading} what="Reading the job" />
    </div>`;
  return html`<${Loaded} watch=${watch} job=${job} freshness=${freshness} key=${job.id} />`;
}

/** @param {{watch: Watch, job: WatchedJob, freshness: Watch["freshness"]}} props */
function Loaded({ watch, job, freshness }) {
  const [duplicating, setDuplicating] = useState(false);
  const [editing, setEditing] = useState(false);
  const [replaying, setReplaying] = useState(
    /** @type {{from: string, kept: Step[]} | null} */ (null),
  );
  const { attempts, steps, children, explained, trace } = useDetails(job);
  const log = useJobLines(job.id, job.last_seq);
  const wait = job.status === "waiting" ? (steps.value?.waiting_for ?? job.waiting_for) : null;
  return html`<article class="page job-page" data-status=${job.status}>
    <header class="page-head job-head">
      <div class="job-title">
        <p class="crumb">
          <a href="/jobs">Jobs</a> / <a href=${`/types/${encodeURIComponent(job.job_type)}`}>
            ${job.job_type}
          </a>
        </p>
        <h1 tabindex="-1">
          <span class="job-type">${job.job_type}</span> <${StateBadge}
            job=${job}
            cancelling=${Boolean(job.cancel_requested_at)} />
        </h1>
      </div>
      <span class="spacer"></span>
      <${Freshness} value=${freshness} />
      <${Actions}
        job=${job}
        watch=${watch}
        duplicate=${() => setDuplicating(true)}
        edit=${() => setEditing(true)} />
    </header>
    ${watch.problem && html`<${Stale} error=${watch.problem} retry=${watch.refresh} />`}
    <${Explained} explained=${explained} job=${job} isAsking=${wait?.kind === "ask"} />
    <${Remedy} job=${job} explained=${explained.value} />
    ${!ENDED.has(job.status) && html`<${JobProgress} job=${job} />`}
    ${
      wait?.kind === "ask" &&
      html`<${Question}
        jobId=${job.id}
        wait=${wait}
        onAnswered=${() => {
          watch.refresh();
          steps.refresh();
        }} />`
    }
    <div class="columns">
      <div class="column main">
        <${LastFailure} job=${job} attempts=${attempts.value ?? []} />
        <${Timeline} job=${job} trace=${trace} attempts=${attempts} events=${watch.events} />
        <section class="card" aria-labelledby="h-log">
          <h2 id="h-log">Logs</h2>
          ${log.error && html`<${Stale} error=${log.error} retry=${watch.refresh} />`}
          <${JobLog}
            lines=${log.lines}
            earlier=${log.earlier}
            all=${log.all}
            name=${`${job.job_type}-${job.id.slice(-8)}`}
            live=${!ENDED.has(job.status)} />
        </section>
        <${Children} list=${children} parentId=${job.id} />
        ${
          job.result !== null &&
          job.result !== undefined &&
          html`<section class="card" aria-labelledby="h-result">
            <h2 id="h-result">Result</h2>
            <${JsonView} value=${job.result} label="Result" />
          </section>`
        }
        <${Files} job=${job} />
        <${Steps}
          steps=${steps}
          onReplay=${(/** @type {string} */ from, /** @type {Step[]} */ kept) => setReplaying({ from, kept })} />
        <${Replays} job=${job} />
        <section class="card" aria-labelledby="h-payload">
          <h2 id="h-payload">Payload</h2>
          <${JsonView} value=${job.payload} label="Payload" />
        </section>
      </div>
      <section class="column side" aria-label="Facts"><${Facts} job=${job} /></section>
    </div>
    ${
      duplicating &&
      html`<${EnqueueDialog}
        workspaceId=${job.workspace_id}
        like=${job}
        onClose=${() => setDuplicating(false)} />`
    }
    ${
      editing &&
      html`<${EditDialog} job=${job} onDone=${watch.refresh} onClose=${() => setEditing(false)} />`
    }
    ${
      replaying &&
      html`<${ReplayDialog} job=${job} ...${replaying} onClose=${() => setReplaying(null)} />`
    }
  </article>`;
}

/** @param {{explained: Read<Explanation>, job: WatchedJob, isAsking: boolean}} props */
function Explained({ explained, job, isAsking }) {
  const told = explained.value;
  if (isAsking) return html`<p class="explain">It continues when someone answers.</p>`; // the question itself stands below
  const whole = told && told.status === job.status ? told.sentence : plainly(job);
  const sentence = job.status === "failed" ? withoutError(whole, job) : whole;
  return html`<p class="explain" aria-live="polite">
    <${Sentence} text=${sentence} />
    ${
      told?.estimated_start_at &&
      told.status === job.status &&
      html` <span class="muted">Expected to start <${When} at=${told.estimated_start_at} />.</span>
      `
    }
  </p>`;
}

/**
 * What to do about it, the checks that concern it, what failed first, and since when it fails.
 *
 * @param {{job: WatchedJob, explained: Explanation | undefined}} props
 */
function Remedy({ job, explained }) {
  if (!explained || explained.status !== job.status) return null;
  const { remedy, command, history } = explained;
  const wrong = explained.checks.filter((check) => check.verdict !== "pass");
  return html`
    ${
      remedy &&
      html`<p class="remedy">
        <span class="strong">What to do:</span> ${remedy}
        ${linksOf(job, explained).map(
          (link) => html` <a key=${link.href} href=${link.href}>${link.label}</a>
          `,
        )}
        ${command && html` <code>${command}</code>`}
      </p>`
    }
    ${history && html`<p class="small" data-part="history"><${Since} history=${history} /></p>`}
    ${
      explained.checks.length > 0 &&
      html`<details class="more checks" open=${wrong.length > 0}>
        <summary>
          Checks: ${wrong.length === 0 ? "all OK" : `${number(wrong.length)} of ${number(explained.checks.length)} not OK`}
        </summary>
        <ul>
          ${explained.checks.map(
            (check) => html`<li key=${check.check}>
              <${Verdict} verdict=${check.verdict} /> ${check.detail}
              ${check.command && check.verdict !== "pass" && html` <code>${check.command}</code>`}
            </li>`,
          )}
        </ul>
      </details>`
    }
  `;
}

/** @param {{history: NonNullable<Explanation["history"]>}} props */
const Since = ({ history }) =>
  html`
    ${
      history.first_seen_at &&
      html`
        First seen <${When} at=${history.first_seen_at} />
        ${
          (history.commit || history.version) &&
          html` with ${
            history.commit
              ? html`
                commit <code>${codeOf(history)}</code>
              `
              : `version ${history.version}`
          }
          `
        }. `
    }
    ${counted(history.jobs, "job")} of ${counted(history.workspaces, "workspace")} failed so. ${
      history.last_success_at
        ? html`
          ${history.first_seen_at && history.last_success_at > history.first_seen_at ? "Others succeed, the last" : "Last success:"} <${When}
            at=${history.last_success_at} />
        `
        : "Last success: never"
    }.
  `;

/** The sentence up to the error, which stands below in full. */
function withoutError(/** @type {string} */ sentence, /** @type {WatchedJob} */ job) {
  const message = (job.error_message ?? "").trim().replace(/\s+/g, " ").slice(0, 80);
  const at = [`${job.error_data?.type}: ${message}`, message]
    .map((said) => (message ? sentence.indexOf(said) : -1))
    .find((found) => found > 0);
  return at ? `${sentence.slice(0, at).replace(/:? *$/, "")}.` : sentence;
}

/** Until the database's own sentence is here. */
function plainly(/** @type {WatchedJob} */ job) {
  switch (job.status) {
    case "pending":
      return job.next_retry_at ? "Waiting for its next attempt." : "Waiting for a worker.";
    case "processing":
      return `Attempt ${job.attempts} is running.`;
    case "waiting":
      return "Waiting, without holding a worker.";
    case "completed":
      return `Completed in attempt ${job.attempts}.`;
    case "failed":
      return `Failed after ${job.attempts} ${job.attempts === 1 ? "attempt" : "attempts"}.`;
    default:
      return `The job is ${job.status}.`;
  }
}

/** @param {{job: WatchedJob, watch: Watch, duplicate: () => void, edit: () => void}} props */
function Actions({ job, watch, duplicate, edit }) {
  const act = actionsOn(watch.refresh);
  const cancel = () =>
    act("Could not cancel", async () => watch.cancel(), undefined, {
      title: "Cancel this job?",
      text:
        job.status === "processing"
          ? "It runs now and is stopped within a heartbeat. Its live child jobs are cancelled too."
          : "It ends at once. Its live child jobs are cancelled too.",
      action: "Cancel 1 job",
      danger: true,
    });
  const isLive = !ENDED.has(job.status);
  const isDelayed = job.status === "pending" && (job.next_retry_at || job.scheduled_for);
  return html`<div class="actions">
    ${
      (job.status === "failed" || job.status === "cancelled") &&
      html`<${ActionButton}
        className="primary"
        run=${() => act("Could not retry", () => api.retry(job.id), "Enqueued again")}>
        Retry
      <//>`
    }
    ${
      isDelayed &&
      html`<${ActionButton}
        run=${() => act("Could not start", () => api.retry(job.id), "Runs as soon as a worker is free")}>
        Run now
      <//>`
    }
    ${
      isLive &&
      html`<button
        type="button"
        class="danger"
        disabled=${Boolean(job.cancel_requested_at)}
        onClick=${cancel}>
        ${job.cancel_requested_at ? "Cancelling…" : "Cancel"}
      </button>`
    }
    ${
      (isDelayed || job.status === "failed" || job.status === "cancelled") &&
      html`<button type="button" onClick=${edit}>
        Edit payload
      </button>`
    }
    <button type="button" onClick=${duplicate}>Duplicate</button>
    ${quiet("Copy link", () => copy(location.href, "Copied the link"))}
  </div>`;
}

/**
 * @param {{job: WatchedJob, trace: Read<JobTrace>, attempts: Read<Attempt[]>,
 *   events: JobEvent[]}} props
 */
function Timeline({ job, trace, attempts, events }) {
  const isLive = !ENDED.has(job.status);
  const now = useNow(isLive || Boolean(trace.value?.jobs.some((one) => !one.finished_at)));
  const list = attempts.value ?? [];
  return html`<section class="card" aria-labelledby="h-time">
    <h2 id="h-time">Timeline</h2>
    ${
      trace.value
        ? html`<${Waterfall} trace=${trace.value} now=${now} />`
        : html`<${Unread} of=${trace} what="the timeline" />`
    }
    ${
      list.length > 0 &&
      html`<details class="more">
        <summary>Attempts (${number(list.length)}) and events (${number(events.length)})</summary>
        <${AttemptsTable} attempts=${list} />
        <${EventList} events=${events} />
      </details>`
    }
  </section>`;
}

/** @param {{events: JobEvent[]}} props */
function EventList({ events }) {
  const shown = events.filter((event) => event.type !== "job.log").slice(-200);
  return html`<ol class="events" aria-label="Events">
    ${shown.map(
      (event) => html`<li key=${event.seq}>
        <span class="num muted">${event.seq}</span> <span class="mono">${event.type}</span> <${When}
          at=${event.at} />
      </li>`,
    )}
  </ol>`;
}

/**
 * Someone by their mail address, where the reader may know it.
 *
 * @param {{id: string}} props
 */
function Person({ id }) {
  const read = useRead(() => people([id]), [id]);
  return read.value?.[id]
    ? html`<span title=${id}>${read.value[id]}</span>`
    : html`<${CopyId} id=${id} what="user id" />`;
}

/** @param {{list: Read<ListedJob[]>, parentId: string}} props */
function Children({ list, parentId }) {
  const all = list.value ?? [];
  if (all.length === 0) return null;
  const ended = all.filter((child) => ENDED.has(child.status)).length;
  /** @type {Set<string | null>} */
  const ids = new Set(all.map((child) => child.id));
  const tops = all.filter((child) => !ids.has(child.parent_id));
  return html`<section class="card" aria-labelledby="h-children">
    <div class="bar">
      <h2 id="h-children">Child jobs</h2>
      <span class="muted small num">
        ${number(ended)} of ${all.length >= api.MOST_OF_LEVEL ? "the latest " : ""}
        ${counted(all.length, "job")} ended
      </span>
      <span class="spacer"></span>
      <a href=${`/jobs?parent_id=${parentId}`}>As a list</a>
    </div>
    <${Branch} of=${tops} all=${all} />
  </section>`;
}

/**
 * Children, and below each its own.
 *
 * @param {{of: ListedJob[], all: ListedJob[]}} props
 */
function Branch({ of: children, all }) {
  return html`<ul class="children">
    ${children.map((child) => {
      const own = all.filter((one) => one.parent_id === child.id);
      return html`<li key=${child.id}>
        <div class="child" data-job=${child.id}>
          <a href=${`/jobs/${child.id}`}>${child.job_type}</a>
          <span class="child-note muted">
            ${hasFailed(child) ? errorLine(child) : child.glimpse}
          </span>
          <${StateBadge} job=${child} />
          ${
            ENDED.has(child.status)
              ? html`<span></span>`
              : html`<${JobProgress} job=${child} compact />`
          }
        </div>
        ${own.length > 0 && html`<${Branch} of=${own} all=${all} />`}
      </li>`;
    })}
  </ul>`;
}

const hasFailed = (/** @type {Pick<ListedJob, "status" | "error_message">} */ job) =>
  job.status === "failed" && Boolean(job.error_message);

/** @param {{job: WatchedJob}} props */
function Facts({ job }) {
  const inNumbers = (/** @type {unknown} */ value) => html`<span class="num">${value}</span>`;
  const mono = (/** @type {string | null} */ value) =>
    value &&
    html`<span class="mono">
      ${value}
    </span>`;
  return html`<dl class="facts card">
    ${fact("Id", html`<${CopyId} id=${job.id} />`)}
    ${fact("Created", html`<${When} at=${job.created_at} />`)}
    ${fact("Scheduled for", job.scheduled_for && html`<${When} at=${job.scheduled_for} />`)}
    ${fact("First start", job.started_at && html`<${When} at=${job.started_at} />`)}
    ${fact("Next run", nextRunOf(job) && html`<${When} at=${nextRunOf(job)} />`)}
    ${fact("Finished", job.finished_at && html`<${When} at=${job.finished_at} />`)}
    ${fact("Attempt", inNumbers(`${job.attempts} of ${job.max_attempts}`))}
    ${fact("Lost workers", job.lost_attempts > 0 && inNumbers(job.lost_attempts))}
    ${fact("Snoozed", job.snoozes > 0 && inNumbers(job.snoozes))}
    ${fact("Cost", Number(job.cost_usd) > 0 && inNumbers(money(/** @type {number} */ (job.cost_usd))))}
    ${fact(
      "Tags",
      job.tags?.length > 0 &&
        html`<span class="tags">
          ${job.tags.map(
            (tag) => html`<a class="tag" key=${tag} href=${`/jobs?tag=${encodeURIComponent(tag)}`}>
              ${tag}
            </a>`,
          )}
        </span>`,
    )}
    ${fact("Queue", html`<a href=${`/jobs?queue=${encodeURIComponent(job.queue)}`}>${job.queue}</a>`)}
    ${fact("Priority", inNumbers(job.priority))}
    ${fact("Deadline", job.deadline_at && html`<${When} at=${job.deadline_at} />`)}
    ${fact("Concurrency key", mono(job.concurrency_key))}
    ${fact("Idempotency key", mono(job.idempotency_key))}
    ${fact("Session", job.session_id && html`<${CopyId} id=${job.session_id} what="session id" />`)}
    ${fact("Parent", job.parent_id && jobLink(job.parent_id))}
    ${fact(
      "Replay of",
      job.replay_of &&
        html`
          ${jobLink(job.replay_of)} ${job.replay_from && html` from ${mono(job.replay_from)}`}
        `,
    )}
    ${fact("Created by", job.user_id ? html`<${Person} id=${job.user_id} />` : "a service")}
  </dl>`;
}
