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

/**
 * Return a row for each step and wait of a job. If the job had several attempts or an attempt
 * failed, also return a row for each attempt.
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
