// Converts the trace of a job to rows on one time axis. Pure. The module parts/waterfall.js draws
// the rows.

import { outcomeOf, stateOf } from "./states.js";

const MAX_EXPANDED = 40;

const at = (iso) => (iso ? Date.parse(iso) : Number.NaN);

/** Return the span of a row, which ends now if it has not ended. */
const spanOf = (from, to, now) => ({ from, to: to ? at(to) : now, isRunning: !to });

/**
 * Return the rows of a trace in order of time, parents before their children. If a trace is large,
 * only direct children are shown, because the page of each child has its own details.
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
      ...stateOf(job.status),
      jobId: job.id,
      ...spanOf(at(job.created_at), job.finished_at, now),
      error: job.error_message,
    });
    if (isLarge && level > 0) return;
    const children = trace.jobs.filter((one) => one.parent_id === job.id);
    const parts = [
      ...partsOf(job, now, level + 1),
      ...children.map((child) => ({ from: at(child.created_at), child })),
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
 * Return rows for a job's steps and waits. Also return rows for its attempts, if there were several
 * or one failed.
 */
function partsOf(job, now, level) {
  // if a run ended in a wait, it is not a separate attempt, because the next run continues it
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
