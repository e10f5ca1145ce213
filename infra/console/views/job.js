// Page of one job. The page shows the job's state with an explanation, the job's history and data,
// and buttons for actions.

import { jobs as api, problems, session, supabase } from "../api.js";
import {
  atLeast,
  capitalize,
  codeOf,
  duration,
  money,
  number,
  pluralize,
  roughly,
  serverNow,
  utc,
} from "../lib/format.js";
import { useJobLines } from "../parts/job-lines.js";
import { createHooks } from "../lib/jobs/hooks.js";
import { outputText } from "../lib/jobs/output.js";
import { setText } from "../lib/jobs/page.js";
import { ENDED } from "../lib/jobs/ended.js";
import { listAddress } from "../lib/router.js";
import { nextRunOf, stateOf } from "../lib/states.js";
import { setTitle } from "../lib/title.js";
import { mayGoOn, rowsOf, totalsOf } from "../lib/waterfall.js";
import { usePolling, useFetch, useStore } from "../lib/store.js";
import {
  hooks,
  html,
  quietButton,
  useEffect,
  useLayoutEffect,
  useRef,
  useState,
} from "../lib/ui.js";
import { AttemptDetails, LastFailure, locationOf } from "../parts/attempts.js";
import { Freshness, JobProgress, StateBadge, useJobState } from "../parts/badge.js";
import { copy, CopyId, JsonView } from "../parts/copy.js";
import { actOnMany } from "../parts/bulk-actions.js";
import { ActionButton, useFocusKeeper } from "../parts/dialog.js";
import { Steps, warned } from "../parts/holders.js";
import { JobLog, useFollow } from "../parts/job-log.js";
import { RunTime } from "../parts/job-monitor.js";
import { useRefresh } from "../parts/live.js";
import { Question } from "../parts/question.js";
import { ReplayDialog } from "../parts/replay.js";
import { Stale, Placeholder } from "../parts/states-of-view.js";
import { breakable, fact, jobLink, typeLink } from "../parts/table.js";
import { createAction } from "../parts/toasts.js";
import { Waterfall } from "../parts/waterfall.js";
import { Age, fileOf, Sentence, useNow, When } from "../parts/when.js";
import NotFound, { placeholderPage } from "../parts/not-found.js";

const { useJob } = createHooks(hooks, supabase);

/** Milliseconds between two reads of the timeline while a job of the timeline runs. */
const TRACE_MS = 2000;

/** Milliseconds for which an update or a piece of output counts as new. */
const NOW_MS = 5000;

export const title = ({ id }) => `Job ${id.slice(-8)}`;

/** Most log lines that the timeline marks. */
const MAX_MARKS = 200;

/**
 * Read attempts and child jobs when the state of the job changes, but not when only the job's
 * progress changes.
 */
function useDetails(job) {
  const stamp = `${job.status} ${job.attempts} ${job.fence} ${job.generation} ${job.finished_at}`;
  const { id } = job;
  const attempts = useFetch((signal) => api.attempts(id, signal), [id]);
  const explained = useFetch((signal) => api.explain(id, signal), [id]);
  const trace = useFetch((signal) => api.trace(id, signal), [id]);
  const states = trace.value?.jobs.map((one) => one.status) ?? [];
  const isRunning = states.includes("processing");
  // repeat the read at intervals, because changes of steps add no events
  usePolling(trace, isRunning ? TRACE_MS : null);
  useRefresh(trace, !isRunning && !states.every((status) => ENDED.has(status)));
  // the explanation depends on other jobs, whose changes add no events to this job, and on the line
  // of code that a running job reports
  useRefresh(explained, !ENDED.has(job.status) || Boolean(explained.value?.abandoned_at));
  const lastStamp = useRef(stamp);
  useEffect(() => {
    if (lastStamp.current === stamp) return;
    lastStamp.current = stamp;
    for (const read of [attempts, explained, trace]) read.refresh();
  }, [stamp]);
  return { attempts, explained, trace };
}

/** Return when a value last changed. Return null for the value that the page has read first. */
function useChangeTime(value) {
  const last = useRef({ value, at: null });
  const { value: before } = last.current;
  if (before !== value)
    last.current = { value, at: before ? new Date(serverNow()).toISOString() : null };
  return last.current.at;
}

/**
 * Return the time and the kind of a running job's last update, if the job's explanation begins with
 * the last update.
 */
function useLastUpdate(job, { sentence, data = {} } = {}, output, line, root) {
  const { steps, streams } = root ?? {};
  const seen = [
    { at: data.silent_since, kind: data.last, silent: data.silent },
    ...(streams ?? [])
      // a stream's last output may be stored after the update that the explanation has
      .filter(
        ({ last_at: last }) =>
          Date.parse(last) > Date.parse(data.silent_since) + 2000 && mayGoOn(last, serverNow()),
      )
      .map(({ last_at: last }) => ({ at: last, kind: "output" })),
    { at: useChangeTime(JSON.stringify(job.progress)), kind: "progress" },
    { at: useChangeTime(Object.values(output)[0] && output), kind: "output" },
    { at: line?.at, kind: "log line" },
    { at: steps?.at(-1)?.ended_at, kind: "end of a step" },
  ];
  return job.status === "processing" && /^(Silent for|Last known)/.test(sentence)
    ? seen.reduce((one, next) => (next.at > one.at ? next : one))
    : null;
}

export default function JobPage({ id }) {
  const watch = useJob(id);
  const { job, missing, problem } = watch;
  if (missing) return html`<${NotFound} what="job" />`;
  if (!job) return placeholderPage("Job", { error: problem, refresh: watch.refresh }, "job");
  return html`<${JobDetails} watch=${watch} job=${job} key=${job.id} />`;
}

function JobDetails({ watch, job }) {
  const [replaying, setReplaying] = useState(null); // {from} for a step, {isCopy} for the whole job
  const { attempts, explained, trace } = useDetails(job);
  const log = useJobLines(job.id, job.last_seq);
  const { value: explanation } = explained;
  const root = trace.value?.jobs[0];
  const update = useLastUpdate(job, explanation, watch.output, log.lines.at(-1), root);
  const silentSince = update?.silent ? update.at : null;
  const isSilent = Boolean(silentSince);
  const pace = update && !isSilent && paceOf(explanation, Object.keys(watch.output).length > 0);
  const remedies = remediesOf({ job, watch, isSilent, explanation });
  const wait = job.status === "waiting" ? job.waiting_for : null;
  const isLive = !ENDED.has(job.status);
  const data = html`<${JobData} job=${job} />`;
  const { word } = stateOf(useJobState(job));
  useEffect(() => {
    const { workspace } = session.get();
    setTitle({ words: [job.job_type, word.toLowerCase(), workspace?.name] });
  }, [word]);
  // Move the focus to the heading of the job, because the heading of the loading page had the focus
  // and was removed.
  useLayoutEffect(() => {
    if (document.activeElement === document.body) document.querySelector("h1").focus();
  }, []);
  return html`<article class="page" data-status=${job.status}>
    <header class="page-head">
      <div>
        <p class="crumb bar">
          <a href=${listAddress.get()}>Jobs</a> ${isLive && html`<${Freshness} value=${watch.freshness} />`}
        </p>
        <h1 tabindex="-1">
          ${job.job_type} <${StateBadge}
            job=${job}
            silentSince=${silentSince}
            cancelling=${Boolean(job.cancel_requested_at)} />
        </h1>
        <p class="muted clamp wrap">${job.glimpse}</p>
      </div>
      <span class="spacer"></span>
      <${Actions}
        job=${job}
        watch=${watch}
        remedies=${remedies}
        explanation=${explanation}
        duplicate=${() => setReplaying({ isCopy: true })}
        edit=${() => setReplaying({})} />
    </header>
    ${watch.problem && html`<${Stale} error=${watch.problem} retry=${watch.refresh} />`}
    ${
      wait?.kind === "ask"
        ? html`<${Question}
          jobId=${job.id}
          wait=${wait}
          onAnswered=${watch.refresh} />`
        : html`<${Explained}
          explained=${explained}
          job=${job}
          update=${update}
          pace=${pace}
          remedies=${remedies} />`
    }
    ${isSilent && explanation.data.stack?.length > 0 && html`<${Stack} ...${explanation.data} />`}
    ${
      job.status === "processing" &&
      html`<${JobProgress} job=${job}>
        ${!isSilent && update && html`<${TimeLeft} data=${explanation.data} />`}
      <//>`
    }
    <div class="columns">
      <div class="column main">
        <${LastFailure} job=${job} attempts=${attempts.value ?? []} />
        ${Object.entries(watch.output).map(
          ([name, content]) =>
            html`<${StreamOutput} key=${name} name=${name} content=${content} isLive=${isLive} root=${root} />`,
        )}
        ${!isLive && data}
        ${
          (job.started_at || trace.value?.jobs.length > 1) &&
          html`<${Timeline}
            job=${job}
            trace=${trace}
            silentSince=${Date.parse(silentSince)}
            marks=${log.lines.slice(-MAX_MARKS)}
            place=${job.status === "processing" && explanation?.data.place}
            isMoving=${isLive && watch.freshness !== "offline"}
            detailsOf=${(row) =>
              html`<${RowDetails}
                row=${row}
                job=${job}
                place=${explanation?.data.place}
                attempts=${attempts.value ?? []}
                onReplay=${(from) => setReplaying({ from })} />`} />`
        }
        ${
          job.started_at &&
          (log.lines.length > 0 || Object.keys(watch.output).length === 0) &&
          html`<section class="card" aria-labelledby="h-log">
            <h2 id="h-log">Logs</h2>
            ${log.error && html`<${Stale} error=${log.error} retry=${watch.refresh} />`}
            <${JobLog}
              lines=${log.lines}
              earlier=${log.earlier}
              all=${log.all}
              name=${`${job.job_type}-${job.id.slice(-8)}`}
              live=${isLive} />
          </section>`
        }
        ${isLive && data}
      </div>
      <section class="column side" aria-label="Facts">
        <${Facts}
          job=${job}
          last=${attempts.value?.at(-1)}
          explanation=${explanation} />
      </section>
    </div>
    ${
      replaying &&
      html`<${ReplayDialog}
        job=${job}
        ...${replaying}
        onDone=${watch.refresh}
        onClose=${() => setReplaying(null)} />`
    }
  </article>`;
}

/** Shows when a job ends at the pace of its progress, and whether that is after its timeout. */
function TimeLeft({ data: { estimated_end_at: end, times_out_at: limit } }) {
  const left = Date.parse(end) - useNow();
  const isLate = Date.parse(end) > Date.parse(limit);
  if (!(left > 1000)) return null;
  return `about ${roughly(left)} left at this pace${isLate ? ", which is after its timeout" : ""}`;
}

/** What a running job did, by the kind of its last update. */
const DID = {
  start: "started",
  progress: "reported progress",
  output: "wrote output",
  "log line": "wrote a log line",
  "end of a step": "ended a step",
};

/**
 * Return a sentence with the run times of a type, and the advice about a long run. If the progress
 * predicts the end of the job, no advice is shown, because other jobs may be smaller. A job that
 * streams needs none. Return null if no job of the type ended, or if the job may be in trouble.
 */
function paceOf({ next, data }, isStreaming) {
  const { sample, most, usual, late_since: late, estimated_end_at: end } = data;
  const advice = next.find(({ words }) => words.includes("should suffice"));
  const isPredicted = Date.parse(end) > serverNow();
  // the limit is rounded up, so the ratio is a minimum
  const limit = data.typical_ms ?? data.longest_ms;
  const ratio = Math.floor((serverNow() - Date.parse(data.run_since)) / limit);
  const others = capitalize(`${sample} of its type took ${most} or less in the last 24 h. `);
  return most && !late && (usual || next[0].kind === "none")
    ? {
        words: [
          (ratio > 1 || !isPredicted) && others,
          !isPredicted && !isStreaming && advice?.words,
        ]
          .filter(Boolean)
          .join(""),
        advice,
      }
    : null;
}

/** The start of the sentence about a silent job, up to the duration. */
const DURATION = /^Silent for .*?(?=[,.](?: |$))/;

/** Shows for how long a running job has been silent, or when it last did what, and in which step. */
function Verdict({ update: { at, kind, silent }, sentence, data: { step } }) {
  const isNow = useNow() < Date.parse(at) + NOW_MS;
  return html`<span aria-live="off">
    ${
      silent
        ? html`Silent for <${Age} at=${at} /><${Sentence} text=${sentence.replace(DURATION, "")} />`
        : html`${kind === "output" ? "Streaming" : "Running"}: ${DID[kind] ?? "sent an update"} ${
            isNow ? "just now" : html`<${When} at=${at} />`
          }${step && `, in its step ${step}`}.`
    }
  </span>`;
}

/** Shows the line of code of a silent job, and the calls that led there. */
const Stack = ({
  stack,
  place,
  code,
}) => html`<section class="card" aria-labelledby="h-stack" data-tone="waiting">
  <div class="bar">
    <h2 id="h-stack">Stack</h2>
    <span class="muted small">the innermost call last</span>
  </div>
  <ol class="traceback">
    ${stack.map((call) => {
      const isPlace = call.startsWith(`${place} `);
      return html`<li data-own=${isPlace ? "" : undefined}>
        <code>${call}</code>${isPlace && code && html`<pre>${code}</pre>`}
      </li>`;
    })}
  </ol>
</section>`;

/** The error at the end of a failed job's sentence, because the page shows the error below. */
const ERROR_AT_END = /(failed at [^.]*?): .*/s;

const FIRST_SENTENCE = /^(.*?(?:\.(?= [A-Z0-9])|$))(.*)$/s;

/** The sentence with the time of a run, and the one after it, which `paceOf` replaces. */
const PACE = /It has run since .*? or less\. ?/;
const RUN = /It has run since \S+ \S+\. ?/;

/** The place in a step, which the sentence about a silent job has too. */
const PLACE = /the call (?:in|at) \S+/;

function Explained({ explained, job, update, pace, remedies }) {
  const box = useFocusKeeper();
  const explanation = explained.value?.status === job.status ? explained.value : {};
  const { sentence = "\u00a0", cause, estimated_start_at: start } = explanation;
  const { attention = [] } = useStore(problems);
  const text = job.status === "failed" ? sentence.replace(ERROR_AT_END, "$1.") : sentence;
  const [, first, rest] = text.match(FIRST_SENTENCE);
  // only a screen reader announces the completion, because the badge shows it
  const isHidden = job.status === "completed" && !explanation.next?.length;
  const isUnserved = /^no_(worker|processor)$/.test(explanation.reason);
  const isSilent = update?.silent;
  // a job that sends updates is not stuck, however long it has run
  const isStuck =
    isUnserved ||
    (job.status === "processing" && !pace && explanation.next?.some(({ kind }) => kind === "act"));
  const { code = "" } = explanation.data ?? {};
  const call = code && code.length < 60 ? `\`${code.replace(/ +#[^'"]*$/, "")}\`` : "this call";
  return html`<div
    class=${isHidden ? "hidden" : "explain"}
    data-tone=${isUnserved ? "failed" : isStuck ? "waiting" : undefined}
    ref=${box}
    aria-live="polite">
    <p class="clamp">
      <span class=${isStuck ? "strong" : undefined}>
        ${
          update
            ? html`<${Verdict}
                update=${update}
                sentence=${first}
                data=${explanation.data} />`
            : html`<${Sentence} text=${first} />`
        }
      </span>
      ${
        pace &&
        html` <span class="muted">
          It has run for <${Age} at=${explanation.data.run_since} />. <${Sentence} text=${pace.words} />
        </span>`
      }
      <${Sentence} text=${rest.replace(pace ? PACE : isSilent ? RUN : "", "")} />
      ${cause && html` <span class="muted">Cause: ${cause}</span>`}
      ${
        start &&
        !nextRunOf(job) &&
        html` <span class="muted">Expected to start <${When} at=${start} />.</span>`
      }
    </p>
    <${Steps}
      next=${warned(
        explanation.next
          ?.filter((step) => step !== pace?.advice)
          .map((step) => ({
            ...step,
            words: isSilent ? step.words.replace(PLACE, () => call) : step.words,
          })),
        attention,
      )}
      here=${`/jobs/${job.id}`}
      buttonOf=${(words) => remedies.find(({ step }) => step.test(words))?.button} />
    ${explanation.outlook && html`<p class="muted"><${Sentence} text=${explanation.outlook} /></p>`}
  </div>`;
}

/** Ask for confirmation, change the job, and read it again. */
async function change({ job, watch }, action, as) {
  await actOnMany({ workspaceId: job.workspace_id, action, filter: { ids: [job.id] }, as });
  await watch.refresh();
}

const startButton = ({ job, watch }, label, message, className) => {
  const act = createAction(watch.refresh);
  const run = () => act("Could not start the job", () => api.retry(job.id), message);
  return html`<${ActionButton} className=${className} run=${run}>${label}<//>`;
};

/** Return buttons, each with a regular expression for the step of an explanation that needs it. */
function remediesOf({ isSilent, ...of }) {
  const { job, explanation } = of;
  const nearest = explanation?.reason === "no_processor" && explanation.data.nearest;
  const hasTime = job.status === "pending" && (job.next_retry_at || job.scheduled_for);
  const button = (label, ...action) =>
    html`<button type="button" onClick=${() => change(of, ...action)}>${label}</button>`;
  return [
    nearest && {
      step: /enqueue again as/,
      button: button(`Enqueue again as ${nearest}`, "replace", nearest),
    },
    hasTime && {
      step: /\brun (it|the job) now\b/i,
      button: startButton(of, "Run now", "The job runs as soon as a worker is free"),
    },
    isSilent &&
      !job.cancel_requested_at && {
        step: /cancel and retry the job/i,
        button: button("Cancel and retry", "restart"),
      },
  ].filter(Boolean);
}

/** Buttons of a job, except those in the steps of its explanation. */
function Actions({ job, watch, remedies, explanation, duplicate, edit }) {
  const box = useFocusKeeper();
  const isCancelling = Boolean(job.cancel_requested_at);
  const mayRetry = job.status === "failed" || job.status === "cancelled";
  const steps = explanation?.status === job.status ? explanation.next : [];
  return html`<div class="actions" ref=${box}>
    ${mayRetry && startButton({ job, watch }, "Retry", "Enqueued again", "primary")}
    ${mayRetry && html`<button type="button" onClick=${edit}>Retry with another payload</button>`}
    ${remedies
      .filter(({ step }) => !steps?.some(({ kind, words }) => kind !== "none" && step.test(words)))
      .map(({ button }) => button)}
    ${
      !ENDED.has(job.status) &&
      html`<button
        type="button"
        class="danger"
        aria-disabled=${isCancelling}
        onClick=${() => !isCancelling && change({ job, watch }, "cancel")}>
        ${isCancelling ? "Cancelling…" : "Cancel"}
      </button>`
    }
    <button type="button" onClick=${duplicate}>Duplicate</button>
  </div>`;
}

const MAX_LINKED = 500; // characters of a payload in an address

/** Shows the payload and the result of the job. */
function JobData({ job }) {
  const { payload, result, job_type: name } = job;
  const query = new URLSearchParams({ job_type: name, payload: JSON.stringify(payload) });
  const isLinked = Object.keys(payload).length > 0 && `${query}`.length < MAX_LINKED;
  const part = (id, heading, value, link) =>
    html`<section class="card" aria-labelledby=${id}>
      <h2 id=${id}>${heading}</h2>
      <${JsonView} value=${value} label=${heading} />
      ${link}
    </section>`;
  return html`<div class="halves">
    ${part(
      "h-payload",
      "Payload",
      payload,
      isLinked && html`<a class="small" href=${`/jobs?${query}`}>Jobs with this payload</a>`,
    )}
    ${result !== null && result !== undefined && part("h-result", "Result", result)}
  </div>`;
}

/** Return by how much a number has grown per second in the last ten seconds. */
function useRate(value) {
  const samples = useRef([]);
  const now = Date.now();
  const isFirst = !samples.current.at(-1)?.[1]; // the page has just read the earlier output
  const recent = isFirst ? [] : samples.current.filter(([at]) => at > now - 10_000);
  samples.current = [...recent, [now, value]];
  const [[at, before]] = samples.current;
  return now - at < 8000 ? null : Math.round((1000 * (value - before)) / (now - at));
}

const SHOWN = 100_000; // a browser takes seconds to lay out a million characters

/**
 * Shows the live output of one stream, at most its last characters. If the reader has scrolled to
 * the end of the output, the view scrolls on when text is added.
 */
function StreamOutput({ name, content, isLive, root }) {
  const at = useChangeTime(content);
  const words = useRef(null);
  const text = outputText(content);
  const rate = useRate(text.length);
  const { first_at: first, last_at: last } =
    root?.streams?.find(({ stream }) => stream === name) ?? {};
  const newest = last && !(at > last) ? last : at;
  const isWriting = useNow(isLive) < Date.parse(isLive && newest) + NOW_MS;
  const start = root?.attempts.findLast(({ leased_at: from }) => from <= first)?.leased_at;
  const seconds = (Date.parse(last) - Date.parse(first)) / 1000;
  const mean = seconds >= 2 ? Math.round(text.length / seconds) : 0;
  useLayoutEffect(() => {
    setText(words.current, text.slice(-SHOWN)); // a new child would discard the reader's selection
  }, [text]);
  const [jump, onScroll] = useFollow(words, text);
  const markEarlier = () =>
    words.current.toggleAttribute("data-earlier", words.current.scrollTop > 0);
  useLayoutEffect(markEarlier, [text]);
  return html`<section class="card" aria-label=${`Output: ${name}`}>
    <div class="bar">
      <h2>Output: ${name}</h2>
      <span class="muted small">
        ${text.length > SHOWN && `the last ${number(SHOWN)} of `}${pluralize(text.length, "character")}${
          isWriting && rate !== null
            ? rate > 0 && `, about ${number(rate)} a second`
            : mean > 0 && `, ${number(mean)} a second on average`
        }${start && ` · first output after ${duration(Date.parse(first) - Date.parse(start))}`}${
          last && html` · last output ${isWriting ? "just now" : html`<${When} at=${newest} />`}`
        }
      </span>
      <span class="spacer"></span>
      ${jump} ${quietButton("Copy", () => copy(text, "Copied output"))}
    </div>
    <p
      class="words"
      data-writing=${isWriting ? "" : undefined}
      ref=${words}
      tabindex="0"
      onScroll=${() => {
        markEarlier();
        onScroll();
      }}></p>
  </section>`;
}

/**
 * Shows for how long a job has waited and run, unless its facts have these times. Time outside
 * steps that is less than a hundredth of the run is not worth its words.
 */
function Totals({ job, now }) {
  const totals = totalsOf(job, now);
  if (!totals) return null;
  const { queue, run, inSteps, retry, suspended, other } = totals;
  const part = (word, ms, more = "") => ms > 0 && `${word} ${duration(ms)}${more}`;
  const outside = !inSteps || run - inSteps < run / 100 ? "" : ` (${duration(inSteps)} in steps)`;
  const parts = [
    part("queued", queue),
    part("ran", run, outside),
    part("waited for retries", retry),
    part("suspended", suspended),
    part("between other runs", other >= 1000 ? other : 0),
  ];
  if (!outside && !parts.slice(2).some(Boolean)) return null;
  return html`<p class="muted small num" aria-live="off">
    ${capitalize(parts.filter(Boolean).join(" · "))}
  </p>`;
}

/** Timeline of a job and the job's child jobs. */
function Timeline({ job, trace, silentSince, marks, place, isMoving, detailsOf }) {
  const children = (trace.value?.jobs ?? []).filter((one) => one.parent_id === job.id);
  const now = useNow(isMoving);
  const rows = trace.value && rowsOf(trace.value, now);
  if (rows?.length < 2 && !isMoving) return null; // the facts have the times of a single row
  const count = atLeast(children.length, trace.value?.more);
  return html`<section class="card" aria-labelledby="h-time">
    <div class="bar">
      <h2 id="h-time">Timeline</h2>
      <span class="spacer"></span>
      ${
        children.length > 0 &&
        html`<a href=${`/jobs?parent_id=${job.id}`}>${count} child jobs as a list</a>`
      }
    </div>
    ${
      rows
        ? html`<${Totals} job=${trace.value.jobs[0]} now=${now} />
          <${Waterfall}
            all=${rows}
            marks=${marks}
            place=${place}
            more=${trace.value.more}
            silentSince=${silentSince}
            detailsOf=${detailsOf} />`
        : html`<${Placeholder} of=${trace} what="the timeline" />`
    }
  </section>`;
}

/**
 * Details of a row of the timeline: the result of a step, the error of an attempt, or a link to a
 * child job.
 */
function RowDetails({ row, job, place, attempts, onReplay }) {
  const range = `${utc(row.from)} to ${row.isRunning ? "now" : utc(row.to)}`;
  if (row.key === job.id || ["wait", "rest", "output"].includes(row.kind))
    return html`<p class="muted">${range}</p>`;
  const problem = row.error && html`<span class="problem">${row.error}</span> `;
  if (row.jobId !== job.id)
    return html`<p>
      ${problem}Child job ${jobLink(row.jobId)} has the details.
    </p>`;
  if (row.kind === "attempt") {
    const attempt = attempts.find((one) => `${job.id}/${one.fence}` === row.key);
    return attempt && html`<${AttemptDetails} attempt=${attempt} />`;
  }
  if (row.isRunning)
    return html`<p class="muted">
      ${range}${place && html`, last seen at <code>${place}</code>`}. The result appears when the
      step ends.
    </p>`;
  return html`<${StepDetails} row=${row} onReplay=${onReplay} />`;
}

function StepDetails({ row, onReplay }) {
  const read = (signal) => api.steps(row.jobId, signal);
  const steps = useFetch(read, [row.jobId]);
  if (!steps.value) return html`<${Placeholder} of=${steps} what="the result" />`;
  const step = steps.value.steps.find((one) => one.name === row.name);
  if (!step) return html`<p class="muted">No result is stored.</p>`;
  return html`<${JsonView} value=${step.result} label=${`Result of ${step.name}`} />
    <div class="actions start">
      <button type="button" onClick=${() => onReplay(step.name)}>Run again from here</button>
    </div>`;
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** Facts about a job, except those that its explanation or timeline contains. */
function Facts({ job, last, explanation: { data = {} } = {} }) {
  const time = (at) => at && html`<${When} at=${at} />`;
  const isRunning = job.status === "processing";
  const place = isRunning ? data.place : job.error_message && locationOf(last?.traceback);
  const neighbours = (field, value) =>
    value &&
    html`<a class="mono" href=${`/jobs?${field}=${encodeURIComponent(value)}`}>${value}</a>`;
  return html`<dl class="facts card">
    ${fact("Id", html`<${CopyId} id=${job.id} />`)}
    ${fact("Type", typeLink(job.job_type))}
    ${fact("Created", time(job.created_at))}
    ${fact("Scheduled for", time(job.scheduled_for))}
    ${fact("First start", time(job.started_at))}
    ${fact("Next run", time(nextRunOf(job)))}
    ${fact("Finished", time(job.finished_at))}
    ${fact("Queue time", job.times?.queue_ms > 0 && duration(job.times.queue_ms))}
    ${fact("Duration", job.started_at && html`<${RunTime} row=${job} />`)}
    ${fact(
      data.typical ? "Usual duration" : "Jobs of its type",
      !isRunning &&
        data.most &&
        html`${data.most} or less<span class="under">
            ${data.sample} in 24 h
          </span>`,
    )}
    ${isRunning && fact("Timeout", data.timeout)}
    ${fact("Line of code", place && html`<code title=${place}>${breakable(fileOf(place))}</code>`)}
    ${isRunning && fact("Worker memory", data.memory_mb && `peak ${data.memory_mb} MB`)}
    ${fact("Attempt", html`<span class="num">${job.attempts} of ${job.max_attempts}</span>`)}
    ${fact("Worker", neighbours("worker_id", job.worker_id ?? last?.worker_id))}
    ${isRunning && fact("Worker seen", time(data.renewed_at))}
    ${fact("Commit", last?.origin && html`<span class="mono">${codeOf(last.origin)}</span>`)}
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
    ${fact("Queue", neighbours("queue", job.queue))}
    ${fact("Priority", number(job.priority))}
    ${fact("Deadline", time(job.deadline_at))}
    ${fact("Starts by", time(job.start_by_at))}
    ${fact("Cost", job.cost_usd > 0 && money(job.cost_usd))}
    ${fact("Concurrency key", neighbours("concurrency_key", job.concurrency_key))}
    ${fact(
      "Idempotency key",
      job.idempotency_key &&
        html`<${CopyId}
          id=${job.idempotency_key}
          whole=${!UUID.test(job.idempotency_key)}
          what="idempotency key" />`,
    )}
    ${fact("Session", job.session_id && html`<${CopyId} id=${job.session_id} what="session id" />`)}
    ${fact("Parent", job.parent_id && jobLink(job.parent_id))}
    ${fact(
      "Replay of",
      job.replay_of && html`${jobLink(job.replay_of)} from ${job.replay_from ?? "its start"}`,
    )}
    ${fact(
      "Created by",
      job.user_id === session.get().user.id
        ? "you"
        : job.user_id
          ? html`<${CopyId} id=${job.user_id} what="user id" />`
          : job.schedule
            ? html`<a href="/schedules">schedule ${job.schedule}</a>`
            : "a service",
    )}
  </dl>`;
}
