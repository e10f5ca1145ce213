// The page of one job: what it is doing, why, what it did, and what can be done about it.

import { jobs as api, supabase } from "../api.js";
import { counted, duration, glimpse, money, number } from "../lib/format.js";
import { useJobLines } from "../lib/job-lines.js";
import { ENDED, makeUseJobStatus } from "../lib/jobs.js";
import { usePolling, useRead } from "../lib/store.js";
import { hooks, html, useEffect, useRef, useState } from "../lib/ui.js";
import { Freshness, StateBadge } from "../parts/badge.js";
import { copy, CopyId } from "../parts/copy.js";
import { ActionButton, confirm } from "../parts/dialog.js";
import { EnqueueDialog } from "../parts/enqueue.js";
import { JobLog } from "../parts/job-log.js";
import { JobProgress } from "../parts/job-progress.js";
import { AttemptsTable, JobTimeline } from "../parts/job-timeline.js";
import { JsonView } from "../parts/json-view.js";
import { Question } from "../parts/question.js";
import { Failed, Loading, Stale } from "../parts/states-of-view.js";
import { tell, tellFailure } from "../parts/toasts.js";
import { Sentence, Took, useNow, When } from "../parts/when.js";
import NotFound from "./not-found.js";

const useJobStatus = makeUseJobStatus(hooks, supabase);

const CHILDREN_MS = 2000;
const EXPLAIN_MS = 5000;
const MOST_STEPS = 100;

export const title = ({ id }) => `Job ${id.slice(-8)}`;

/** Attempts, steps, children: read when the job changes state, not with every progress. */
function useDetails(job) {
  const stamp = job && `${job.status} ${job.attempts} ${job.fence} ${job.generation} ${job.completed_at}`;
  const attempts = useRead((signal) => (job ? api.attempts(job.id, signal) : Promise.resolve(undefined)), [job?.id]);
  const steps = useRead((signal) => (job ? api.steps(job.id, signal) : Promise.resolve(undefined)), [job?.id]);
  const children = useRead((signal) => (job ? api.descendants(job.id, signal) : Promise.resolve(undefined)), [job?.id]);
  const explained = useRead((signal) => (job ? api.explain(job.id, signal) : Promise.resolve(undefined)), [job?.id]);
  // a child's progress is no event of its parent
  usePolling(children, children.value?.some((child) => !ENDED.has(child.status)) ? CHILDREN_MS : null);
  // why it does not run depends on others, whose changes are no events of this job
  usePolling(explained, job && (job.status === "pending" || job.status === "waiting") ? EXPLAIN_MS : null);
  const seen = useRef(stamp);
  useEffect(() => {
    if (seen.current === stamp) return;
    const hadJob = Boolean(seen.current);
    seen.current = stamp;
    if (!hadJob) return;
    for (const read of [attempts, steps, children, explained]) read.refresh();
  }, [stamp]);
  return { attempts, steps, children, explained };
}

const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** What is no id names no job: the database need not be asked, and its refusal speaks of types. */
export default function JobPage(props) {
  return ID.test(props.id) ? html`<${Watched} ...${props} />` : html`<${NotFound} what="job" />`;
}

function Watched({ id, workspace }) {
  const watch = useJobStatus({ jobId: id, history: true, cancel: api.cancel });
  const { job, missing, problem, freshness } = watch;
  if (missing) return html`<${NotFound} what="job" />`;
  if (!job && problem) return html`<div class="page"><h1 tabindex="-1">Job</h1><${Failed} error=${problem} retry=${watch.refresh} what="The job could not be read" /></div>`;
  if (!job) return html`<div class="page"><h1 tabindex="-1">Job</h1><${Loading} what="Reading the job" /></div>`;
  return html`<${Loaded} watch=${watch} job=${job} freshness=${freshness} workspace=${workspace} key=${job.id} />`;
}

function Loaded({ watch, job, freshness }) {
  const [duplicating, setDuplicating] = useState(false);
  const { attempts, steps, children, explained } = useDetails(job);
  const log = useJobLines(job.id, job.last_seq);
  const wait = job.status === "waiting" ? (steps.value?.waiting_for ?? job.waiting_for) : null;
  return html`<article class="page job-page" data-status=${job.status}>
    <header class="page-head job-head">
      <div class="job-title"><p class="crumb"><a href="/jobs">Jobs</a> / <a href=${`/jobs?job_type=${encodeURIComponent(job.job_type)}`}>${job.job_type}</a></p>
        <h1 tabindex="-1"><span class="job-type">${job.job_type}</span> <${StateBadge} status=${job.status} cancelling=${Boolean(job.cancel_requested_at)} /></h1></div>
      <span class="spacer"></span>
      <${Freshness} value=${freshness} />
      <${Actions} job=${job} watch=${watch} duplicate=${() => setDuplicating(true)} />
    </header>
    ${watch.problem && html`<${Stale} error=${watch.problem} retry=${watch.refresh} />`}
    <${Explained} explained=${explained} job=${job} isAsking=${wait?.kind === "ask"} />
    <${JobProgress} job=${job} />
    ${wait?.kind === "ask" && html`<${Question} jobId=${job.id} wait=${wait} onAnswered=${() => { watch.refresh(); steps.refresh(); }} />`}
    <div class="columns">
      <div class="column main">
        ${job.error_message && job.status !== "completed" && html`<section class=${job.status === "failed" ? "card error-card" : "card"} aria-labelledby="h-error"><h2 id="h-error">${job.status === "failed" ? "Error" : "Last error"}</h2>
          <p class="error-text">${job.error_message}</p>${job.error_data && html`<details class="more" open=${job.status === "failed"}><summary>Details</summary><${JsonView} value=${job.error_data} label="Error details" /></details>`}</section>`}
        <${Timeline} job=${job} attempts=${attempts} events=${watch.events} />
        <section class="card" aria-labelledby="h-log"><h2 id="h-log">Logs</h2>${log.error && html`<${Stale} error=${log.error} retry=${watch.refresh} />`}<${JobLog} lines=${log.lines} earlier=${log.earlier} all=${log.all} name=${`${job.job_type}-${job.id.slice(-8)}`} live=${!ENDED.has(job.status)} /></section>
        <${Children} list=${children} parentId=${job.id} />
        ${job.result !== null && job.result !== undefined && html`<section class="card" aria-labelledby="h-result"><h2 id="h-result">Result</h2><${JsonView} value=${job.result} label="Result" /></section>`}
        <${Steps} steps=${steps} />
        <section class="card" aria-labelledby="h-payload"><h2 id="h-payload">Payload</h2><${JsonView} value=${job.payload} label="Payload" /></section>
      </div>
      <section class="column side" aria-label="Facts"><${Facts} job=${job} /></section>
    </div>
    ${duplicating && html`<${EnqueueDialog} workspaceId=${job.workspace_id} like=${job} onClose=${() => setDuplicating(false)} />`}
  </article>`;
}

function Explained({ explained, job, isAsking }) {
  const told = explained.value;
  if (isAsking) return html`<p class="explain">It continues when someone answers.</p>`; // the question itself stands below
  const sentence = told && told.status === job.status ? told.sentence : plainly(job);
  return html`<p class="explain" aria-live="polite"><${Sentence} text=${sentence} />${told?.estimated_start_at && told.status === job.status && html` <span class="muted">Expected to start <${When} at=${told.estimated_start_at} />.</span>`}</p>`;
}

/** Until the database's own sentence is here. */
function plainly(job) {
  switch (job.status) {
    case "pending": return job.next_retry_at ? "Waiting for its next attempt." : "Waiting for a worker.";
    case "processing": return `Attempt ${job.attempts} is running.`;
    case "waiting": return "Waiting, without holding a worker.";
    case "completed": return `Completed in attempt ${job.attempts}.`;
    case "failed": return `Failed after ${job.attempts} ${job.attempts === 1 ? "attempt" : "attempts"}; kept as a dead letter.`;
    default: return `The job is ${job.status}.`;
  }
}

function Actions({ job, watch, duplicate }) {
  const act = (what, run, done) => async () => {
    try {
      await run();
      if (done) tell(done);
      await watch.refresh();
    } catch (error) {
      tellFailure(what, error);
      watch.refresh();
    }
  };
  const cancel = async () => {
    if (!(await confirm({ title: "Cancel this job?", text: job.status === "processing" ? "It runs now and is stopped within a heartbeat. Its live child jobs are cancelled too." : "It ends at once. Its live child jobs are cancelled too.", action: "Cancel 1 job", danger: true }))) return;
    await act("Not cancelled", () => watch.cancel())();
  };
  const isLive = !ENDED.has(job.status);
  const isDelayed = job.status === "pending" && (job.next_retry_at || job.scheduled_for);
  return html`<div class="actions">
    ${(job.status === "failed" || job.status === "cancelled") && html`<${ActionButton} className="primary" run=${act("Not retried", () => api.retry(job.id), "Enqueued again")}>Retry<//>`}
    ${isDelayed && html`<${ActionButton} run=${act("Not started", () => api.retry(job.id), "Runs as soon as a worker is free")}>Run now<//>`}
    ${isLive && html`<button type="button" class="danger" disabled=${Boolean(job.cancel_requested_at)} onClick=${cancel}>${job.cancel_requested_at ? "Cancelling…" : "Cancel"}</button>`}
    <button type="button" onClick=${duplicate}>Duplicate</button>
    <button type="button" class="quiet" onClick=${() => copy(location.href, "Copied the link")}>Copy link</button>
  </div>`;
}

function Timeline({ job, attempts, events }) {
  const isLive = !ENDED.has(job.status);
  const now = useNow(isLive);
  const list = attempts.value ?? [];
  return html`<section class="card" aria-labelledby="h-time"><h2 id="h-time">Timeline</h2>
    ${attempts.error && !attempts.value ? html`<${Failed} error=${attempts.error} retry=${attempts.refresh} what="The attempts could not be read" />` : html`<${JobTimeline} job=${job} attempts=${list} events=${events} now=${now} />`}
    ${list.length > 0 && html`<details class="more"><summary>Attempts (${number(list.length)}) and events (${number(events.length)})</summary>
      <${AttemptsTable} attempts=${list} /><${EventList} events=${events} /></details>`}
  </section>`;
}

function EventList({ events }) {
  const shown = events.filter((event) => event.type !== "job.log").slice(-200);
  return html`<ol class="events" aria-label="Events">${shown.map((event) => html`<li key=${event.seq}><span class="num muted">${event.seq}</span> <span class="mono">${event.type}</span> <${When} at=${event.at} /></li>`)}</ol>`;
}

function Steps({ steps }) {
  const list = steps.value?.steps ?? [];
  if (list.length === 0) return null;
  return html`<section class="card" aria-labelledby="h-steps"><h2 id="h-steps">Steps</h2>
    <p class="muted small">Finished steps are remembered: a retry continues after the last one.</p>
    ${list.length > MOST_STEPS && html`<p class="muted small num">The latest ${MOST_STEPS} of ${counted(list.length, "step")}.</p>`}
    ${list.slice(-MOST_STEPS).map((step) => html`<details class="more" key=${step.name}><summary><span class="mono">${step.name}</span> <${When} at=${step.created_at} /></summary><${JsonView} value=${step.result} label=${`Result of ${step.name}`} /></details>`)}
  </section>`;
}

function Children({ list, parentId }) {
  const all = list.value ?? [];
  if (all.length === 0) return null;
  const ended = all.filter((child) => ENDED.has(child.status)).length;
  const ids = new Set(all.map((child) => child.id));
  const tops = all.filter((child) => !ids.has(child.parent_id));
  return html`<section class="card" aria-labelledby="h-children"><div class="bar"><h2 id="h-children">Child jobs</h2><span class="muted small num">${number(ended)} of ${all.length >= api.MOST_OF_LEVEL ? "the first " : ""}${counted(all.length, "job")} ended</span><span class="spacer"></span><a href=${`/jobs?parent_id=${parentId}`}>As a list</a></div>
    <${Branch} of=${tops} all=${all} /></section>`;
}

/** Children, and below each its own. */
function Branch({ of: children, all }) {
  return html`<ul class="children">${children.map((child) => {
    const own = all.filter((one) => one.parent_id === child.id);
    return html`<li key=${child.id}><div class="child" data-job=${child.id}><a href=${`/jobs/${child.id}`}>${child.job_type}</a><span class="child-note muted">${hasFailed(child) ? child.error_message : glimpse(child.payload)}</span>
      <${StateBadge} status=${child.status} /><${JobProgress} job=${child} compact /></div>${own.length > 0 && html`<${Branch} of=${own} all=${all} />`}</li>`;
  })}</ul>`;
}

const hasFailed = (job) => job.status === "failed" && Boolean(job.error_message);

function Facts({ job }) {
  const fact = (name, value) => value !== null && value !== undefined && value !== false && html`<div><dt>${name}</dt><dd>${value}</dd></div>`;
  return html`<dl class="facts card">
    ${fact("Id", html`<${CopyId} id=${job.id} />`)}
    ${fact("Created", html`<${When} at=${job.created_at} />`)}
    ${fact("Scheduled for", job.scheduled_for && html`<${When} at=${job.scheduled_for} />`)}
    ${fact("Started", job.started_at && html`<${When} at=${job.started_at} />`)}
    ${fact("Next attempt", job.next_retry_at && html`<${When} at=${job.next_retry_at} />`)}
    ${fact("Ended", job.completed_at && html`<${When} at=${job.completed_at} />`)}
    ${fact(job.completed_at ? "Took" : "Running for", job.started_at && (job.completed_at || job.status === "processing") && html`<${Took} from=${job.started_at} to=${job.completed_at} />`)}
    ${fact("Waited", job.started_at && job.attempts <= 1 && html`<span class="num">${duration(Date.parse(job.started_at) - Date.parse(job.scheduled_for ?? job.created_at))}</span>`)}
    ${fact("Attempt", html`<span class="num">${job.attempts} of ${job.max_attempts}</span>`)}
    ${fact("Lost workers", job.lost_attempts > 0 && html`<span class="num">${job.lost_attempts}</span>`)}
    ${fact("Snoozed", job.snoozes > 0 && html`<span class="num">${job.snoozes}</span>`)}
    ${fact("Cost", job.cost_usd && Number(job.cost_usd) > 0 && html`<span class="num">${money(job.cost_usd)}</span>`)}
    ${fact("Queue", html`<a href=${`/jobs?queue=${encodeURIComponent(job.queue)}`}>${job.queue}</a>`)}
    ${fact("Priority", html`<span class="num">${job.priority}</span>`)}
    ${fact("Deadline", job.deadline_at && html`<${When} at=${job.deadline_at} />`)}
    ${fact("Concurrency key", job.concurrency_key && html`<span class="mono">${job.concurrency_key}</span>`)}
    ${fact("Idempotency key", job.idempotency_key && html`<span class="mono">${job.idempotency_key}</span>`)}
    ${fact("Session", job.session_id && html`<${CopyId} id=${job.session_id} what="session id" />`)}
    ${fact("Parent", job.parent_id && html`<a class="mono" href=${`/jobs/${job.parent_id}`}>${job.parent_id.slice(-8)}</a>`)}
    ${fact("Batch", job.batch_id && html`<${CopyId} id=${job.batch_id} what="batch id" />`)}
    ${fact("Created by", job.user_id ? html`<${CopyId} id=${job.user_id} what="user id" />` : "a service")}
  </dl>`;
}
