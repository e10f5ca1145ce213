// Converts the trace of a job to rows on one time axis. The module parts/waterfall.js draws the
// rows.

import { outcomeOf, stateAt, stateOf } from "./states.js";

const MAX_EXPANDED = 40;
const LATE_OUTPUT_MS = 20_000; // output is stored up to this late

const at = (iso) => (iso ? Date.parse(iso) : Number.NaN);

/** Return whether a stream may go on, by the time of its last output, which is known late. */
export const mayGoOn = (last, now) => at(last) > now - LATE_OUTPUT_MS;

/**
 * Return the start and end of a row on the time axis. A row whose step or attempt still runs ends
 * now.
 */
const spanOf = (from, to, now) => ({ from, to: to ? at(to) : now, isRunning: !to });

/**
 * Return the rows of a trace in the order of time, each parent before its children. If a trace is
 * large, only the direct children of the job are shown, because the page of each child job shows
 * the child's own steps.
 */
export function rowsOf(trace, now) {
  const rows = [];
  const isLarge = trace.jobs.length > MAX_EXPANDED;
  const add = (job, level) => {
    rows.push({
      key: job.id,
      kind: "job",
      level,
      name: job.job_type,
      ...stateOf(stateAt(job, now)),
      jobId: job.id,
      ...spanOf(at(job.started_at ?? job.created_at), job.finished_at, now),
      // the job's duration, which excludes the calls that lease and settle the job
      ran: job.finished_at && job.attempts.length < 2 && job.times?.run_ms,
      error: job.error_message,
    });
    if (isLarge && level > 0) return;
    const children = trace.jobs.filter((one) => one.parent_id === job.id);
    const parts = [
      ...partsOf(job, now, level + 1),
      ...children.map((child) => ({ from: at(child.started_at ?? child.created_at), child })),
    ].sort((a, b) => a.from - b.from);
    for (const part of parts) {
      if ("child" in part) add(part.child, level + 1);
      else rows.push(part);
    }
  };
  if (trace.jobs[0]) add(trace.jobs[0], 0);
  return rows;
}

/** Shorter times in which a job waits get no row. */
const MIN_WAIT_MS = 1000;

/** Names of the times between two attempts, by the outcome of the first. */
const GAPS = { retry: "Wait for retry", waiting: "Suspended" };

/** Return the times between the attempts of a job, and after its last attempt until its end. */
const gapsOf = ({ attempts, finished_at: finish }, now) =>
  attempts.flatMap(({ ended_at: end, outcome }, index) => {
    const next = attempts[index + 1]?.leased_at ?? finish;
    return end ? { name: GAPS[outcome] ?? "Between runs", ...spanOf(at(end), next, now) } : [];
  });

/** Return the duration of the union of intervals in milliseconds. */
function unionOf(rows) {
  let [sum, end] = [0, 0];
  for (const { from, to } of rows.toSorted((a, b) => a.from - b.from)) {
    sum += Math.max(0, to - Math.max(from, end));
    end = Math.max(to, end);
  }
  return sum;
}

/**
 * Return for how long a job has waited in the queue, run in and outside of its steps, waited for a
 * retry, and been suspended, in milliseconds. Return null if attempts of the job are missing.
 */
export function totalsOf(job, now) {
  if (!job.started_at || job.attempts.length < job.times.runs) return null;
  const spans = (lines, from, to) => lines.map((line) => spanOf(at(line[from]), line[to], now));
  const steps = job.steps.filter(({ kind, started_at: start }) => kind === "step" && start);
  // the duration of an ended attempt excludes the calls that lease and settle the job
  const run =
    job.status === "processing"
      ? unionOf(spans(job.attempts, "leased_at", "ended_at"))
      : job.times.run_ms;
  const inSteps = Math.min(run, unionOf(spans(steps, "started_at", "ended_at")));
  const gaps = Map.groupBy(gapsOf(job, now), ({ name }) => name);
  const [retry, suspended, other] = [...Object.values(GAPS), "Between runs"].map((name) =>
    unionOf(gaps.get(name) ?? []),
  );
  return {
    queue: job.times.queue_ms,
    ...{ run, inSteps: steps.length > 0 ? inSteps : null, retry, suspended, other },
  };
}

/**
 * Return a row for each step, wait and stream of a job, and for the time since the last step of a
 * running job. If the job had several attempts or an attempt failed, also return a row for each
 * attempt.
 */
function partsOf(job, now, level) {
  const { attempts: runs, steps, streams, times, started_at: start } = job;
  const part = (kind, key, name, tone, from, to) => ({
    ...{ kind, key: job.id + key, level, name, jobId: job.id, tone },
    ...spanOf(from, to, now),
  });
  // do not count a run that ended with a wait as a separate attempt, because the next run continues
  // the same attempt
  const attempts = runs.filter((attempt) => attempt.outcome !== "waiting");
  const showsAttempts = attempts.length > 1 || attempts.some((attempt) => attempt.error_message);
  const isLive = (last) => outputTone(last) === "processing" && mayGoOn(last, now);
  const outputTone = (last) =>
    job.status === "processing" && at(last) >= at(runs.at(-1)?.leased_at)
      ? "processing"
      : "completed";
  const toneOf = (step) =>
    step.kind !== "step" ? "waiting" : step.ended_at ? "completed" : "processing";
  const waits = [
    ...(start && times ? [{ name: "Queue", from: at(start) - times.queue_ms, to: at(start) }] : []),
    ...gapsOf(job, now).filter(({ name }) => name !== GAPS.waiting), // its steps have rows
  ].filter(({ from, to }) => to - from >= MIN_WAIT_MS);
  // NaN while a step runs
  const rest = Math.max(...steps.map((step) => at(step.ended_at)), at(runs.at(-1)?.leased_at));
  const isOutside =
    job.status === "processing" &&
    steps.length > 0 &&
    now - rest >= MIN_WAIT_MS &&
    !streams?.some(({ last_at: last }) => isLive(last)); // its row shows the same time
  return [
    ...(showsAttempts ? attempts : []).map((attempt) => ({
      ...part(
        "attempt",
        `/${attempt.fence}`,
        `Attempt ${attempt.attempt}`,
        "",
        at(attempt.leased_at),
        attempt.ended_at,
      ),
      ...outcomeOf(attempt),
      error: attempt.error_message,
    })),
    ...waits.map((wait) => ({
      ...part("wait", ` ${wait.name} ${wait.from}`, wait.name, "pending"),
      isRunning: false,
      ...wait,
    })),
    ...(isOutside ? [part("rest", " rest", "Not in a step", "processing", rest)] : []),
    ...(streams ?? [])
      .filter(({ first_at: first }) => first)
      .map(({ stream, first_at: first, last_at: last }) =>
        part(
          "output",
          `>${stream}`,
          `Output: ${stream}`,
          outputTone(last),
          at(first),
          isLive(last) ? null : last,
        ),
      ),
    ...steps.map((step) =>
      part(
        "step",
        `:${step.name}`,
        step.name,
        toneOf(step),
        at(step.started_at ?? step.ended_at),
        step.ended_at,
      ),
    ),
  ];
}
