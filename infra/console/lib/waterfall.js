// Converts the trace of a job to rows on one time axis. Pure. The module parts/waterfall.js draws
// the rows.

import { outcomeOf, stateOf } from "./states.js";

const KINDS = {
  step: "Step",
  sleep: "Sleep",
  ask: "Question",
  event: "Event",
  children: "Children",
  after: "Other jobs",
};

const at = (iso) => (iso ? Date.parse(iso) : Number.NaN);

/** Return the spans of a job. A span is queued, running, waiting or backing off. */
export function spansOf(job, now) {
  const end = job.finished_at ? at(job.finished_at) : now;
  const spans = [];
  let before = at(job.created_at);
  let reason = "queued";
  for (const attempt of job.attempts) {
    const from = at(attempt.leased_at);
    const to = attempt.ended_at ? at(attempt.ended_at) : now;
    if (from > before) spans.push({ kind: reason, from: before, to: from });
    spans.push({ kind: "run", from, to, attempt });
    before = to;
    reason =
      attempt.outcome === "waiting"
        ? "wait"
        : attempt.outcome === "retry" || attempt.outcome === "snoozed"
          ? "backoff"
          : "queued";
  }
  if (end > before && job.status !== "processing")
    spans.push({ kind: reason, from: before, to: end });
  return spans;
}

const MAX_EXPANDED = 40;

/**
 * Return the rows of a trace in order of time, parents before their children. If a trace is large,
 * only direct children are shown, because the page of each child has its own details.
 */
export function rowsOf(trace, now) {
  const childrenOf = new Map();
  for (const job of trace.jobs)
    childrenOf.set(job.parent_id, [...(childrenOf.get(job.parent_id) ?? []), job]);
  const rows = [];
  const isLarge = trace.jobs.length > MAX_EXPANDED;
  const add = (job, level) => {
    const { word, tone } = stateOf(job.status);
    rows.push({
      key: job.id,
      kind: "job",
      level,
      name: job.job_type,
      word,
      tone,
      jobId: job.id,
      from: at(job.created_at),
      to: job.finished_at ? at(job.finished_at) : now,
      isRunning: !job.finished_at,
      bars: spansOf(job, now),
      error: job.error_message ?? null,
      until: job.status === "pending" ? at(job.next_retry_at ?? job.scheduled_for) : Number.NaN,
    });
    if (isLarge && level > 0) return;
    const parts = [
      ...partsOf(job, now, level + 1),
      ...(childrenOf.get(job.id) ?? []).map((child) => ({ from: at(child.created_at), child })),
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
  const leaf = (row) => ({
    level,
    jobId: job.id,
    bars: [{ kind: row.kind, from: row.from, to: row.to }],
    error: null,
    until: Number.NaN,
    ...row,
  });
  // if a run ended in a wait, it is not a separate attempt, because the next run continues it
  const attempts = job.attempts.filter((attempt) => attempt.outcome !== "waiting");
  const showsAttempts = attempts.length > 1 || attempts.some((attempt) => attempt.error_message);
  return [
    ...(showsAttempts ? attempts : []).map((attempt) =>
      leaf({
        key: `${job.id}/${attempt.fence}`,
        kind: "attempt",
        name: `Attempt ${attempt.attempt}`,
        ...outcomeOf(attempt.outcome),
        from: at(attempt.leased_at),
        to: attempt.ended_at ? at(attempt.ended_at) : now,
        isRunning: !attempt.ended_at,
        error: attempt.error_message ?? null,
      }),
    ),
    ...job.steps.map((step) => {
      const isWait = step.kind !== "step";
      const to = step.ended_at ? at(step.ended_at) : now;
      return leaf({
        key: `${job.id}:${step.name}`,
        kind: isWait ? "wait" : "step",
        name: step.name,
        word: KINDS[step.kind],
        tone: isWait ? "waiting" : step.ended_at ? "completed" : "processing",
        from: step.started_at ? at(step.started_at) : to,
        to,
        isRunning: !step.ended_at,
        until: at(step.timeout_at),
      });
    }),
  ];
}

/** Return the first and last instant of all rows, at least 100 ms apart. */
export function extentOf(rows) {
  const from = Math.min(...rows.map((row) => row.from));
  const to = Math.max(...rows.map((row) => row.to));
  return { from, to: Math.max(to, from + 100) };
}

/** Return a span's position and width in percent of the view. */
export function placeOf({ from, to }, view) {
  const percent = (ms) => (ms / (view.to - view.from)) * 100;
  return { left: percent(from - view.from), width: percent(Math.max(to - from, 0)) };
}
