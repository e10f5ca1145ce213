// Converts the trace of a job to rows on one time axis. The module parts/waterfall.js draws the
// rows.

import { outcomeOf, stateAt, stateOf } from "./states.js";

const MAX_EXPANDED = 40;

const at = (iso) => (iso ? Date.parse(iso) : Number.NaN);

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

/** Return the times in which a job waited in the queue or for its next attempt, as rows. */
function waitsOf(job, now, level) {
  const { attempts, status, times, started_at: start } = job;
  const wait = (name, from, to) => ({
    key: `${job.id} ${name} ${from}`,
    kind: "wait",
    level,
    name,
    tone: "pending",
    jobId: job.id,
    ...{ from, to: to || now, isRunning: !to },
  });
  const first = at(start);
  const rows = attempts.map(({ ended_at: end, outcome }, index) => {
    const next = at(attempts[index + 1]?.leased_at);
    const isOver = !end || outcome === "waiting" || (!next && status !== "pending");
    return !isOver && wait(outcome === "retry" ? "Wait for retry" : "Between runs", at(end), next);
  });
  return [times && start && wait("Queue", first - times.queue_ms, first), ...rows].filter(
    (row) => row && row.to - row.from >= MIN_WAIT_MS,
  );
}

/** Return the duration of the union of intervals in milliseconds. */
const unionOf = (rows) =>
  rows
    .toSorted((a, b) => a.from - b.from)
    .reduce(
      ([sum, end], { from, to }) => [
        sum + Math.max(0, to - Math.max(from, end)),
        Math.max(to, end),
      ],
      [0, 0],
    )[0];

/**
 * Return for how long a job has waited in the queue, run in and outside of its steps, waited for a
 * retry, and been suspended, in milliseconds. Return null if attempts of the job are missing.
 */
export function totalsOf(job, now) {
  if (!job.started_at || job.attempts.length < job.times.runs) return null;
  const spans = (lines, from, to) => lines.map((line) => spanOf(at(line[from]), line[to], now));
  const runs = spans(job.attempts, "leased_at", "ended_at");
  const steps = job.steps.filter(({ kind, started_at: start }) => kind === "step" && start);
  const run = unionOf(runs);
  const inSteps = Math.min(run, unionOf(spans(steps, "started_at", "ended_at")));
  const between = (isMeant) =>
    job.attempts.reduce((sum, { ended_at: end, outcome }, index) => {
      const next = at(job.attempts[index + 1]?.leased_at ?? job.finished_at) || now;
      return sum + (end && isMeant(outcome) ? Math.max(0, next - at(end)) : 0);
    }, 0);
  return {
    queue: job.times.queue_ms,
    ...{ run, inSteps: steps.length > 0 ? inSteps : null },
    retry: between((outcome) => outcome === "retry"),
    suspended: between((outcome) => outcome === "waiting"),
    other: between((outcome) => !["retry", "waiting"].includes(outcome)),
  };
}

/**
 * Return a row for each step, wait and stream of a job, and for the time since the last step of a
 * running job. If the job had several attempts or an attempt failed, also return a row for each
 * attempt.
 */
function partsOf(job, now, level) {
  // do not count a run that ended with a wait as a separate attempt, because the next run continues
  // the same attempt
  const attempts = job.attempts.filter((attempt) => attempt.outcome !== "waiting");
  const showsAttempts = attempts.length > 1 || attempts.some((attempt) => attempt.error_message);
  const toneOf = (step) =>
    step.kind !== "step" ? "waiting" : step.ended_at ? "completed" : "processing";
  return [
    ...(showsAttempts ? attempts : []).map((attempt) => ({
      key: `${job.id}/${attempt.fence}`,
      kind: "attempt",
      level,
      name: `Attempt ${attempt.attempt}`,
      ...outcomeOf(attempt.outcome),
      jobId: job.id,
      ...spanOf(at(attempt.leased_at), attempt.ended_at, now),
      error: attempt.error_message,
    })),
    ...waitsOf(job, now, level),
    ...restOf(job, now, level),
    ...(job.streams ?? []).flatMap(({ stream, first_at: first, last_at: last }) =>
      first
        ? [
            {
              key: `${job.id}>${stream}`,
              kind: "output",
              level,
              name: `Output: ${stream}`,
              tone: "completed",
              jobId: job.id,
              ...spanOf(at(first), last, now),
            },
          ]
        : [],
    ),
    ...job.steps.map((step) => ({
      key: `${job.id}:${step.name}`,
      kind: "step",
      level,
      name: step.name,
      tone: toneOf(step),
      jobId: job.id,
      ...spanOf(at(step.started_at ?? step.ended_at), step.ended_at, now),
    })),
  ];
}

/** Return a row for the time since the last step of a running job, if no step runs. */
function restOf(job, now, level) {
  const { attempts, steps, status } = job;
  const ends = steps.map(({ ended_at: end }) => at(end));
  const from = Math.max(...ends, at(attempts.at(-1)?.leased_at));
  return status === "processing" && ends.length > 0 && now - from >= MIN_WAIT_MS
    ? [
        {
          key: `${job.id} rest`,
          kind: "rest",
          level,
          name: "Outside steps",
          tone: "processing",
          jobId: job.id,
          ...spanOf(from, null, now),
        },
      ]
    : [];
}
