// Converts the result of the SQL function queue_series to values for charts.

import { RANGES as ALL } from "./format.js";

const RETENTION_MINUTES = 11_520;

/** Time ranges for which the database keeps statistics. */
export const RANGES = Object.fromEntries(
  Object.entries(ALL).filter(([, [minutes]]) => minutes <= RETENTION_MINUTES),
);

/** Return the time range that `word` in the page's address names, or an hour. */
export const rangeOf = (word) => (Object.hasOwn(RANGES, word) ? word : "1h");

const COUNTS = ["enqueued", "completed", "failed", "retried", "lost"];

/** Convert the points of a time series to arrays that have one value per time step. */
export function bucketize({ now, since, step_seconds: step, points }) {
  const from = Date.parse(since) / 1000;
  const at = [];
  for (let time = from; time <= Date.parse(now) / 1000 && at.length < 500; time += step)
    at.push(time);
  const totals = Object.fromEntries(COUNTS.map((name) => [name, at.map(() => 0)]));
  const sums = Object.fromEntries(COUNTS.map((name) => [name, 0]));
  const types = new Map();
  for (const point of points) {
    const index = Math.round((Date.parse(point.at) / 1000 - from) / step);
    if (!(index in at)) continue;
    const type = types.get(point.job_type) ?? { jobs: 0, queue: at.map(() => null) };
    types.set(point.job_type, type);
    for (const name of COUNTS) {
      totals[name][index] += point[name];
      sums[name] += point[name];
    }
    type.jobs += point.enqueued + point.completed + point.failed;
    type.queue[index] = point.queue.p95_ms;
  }
  return { at, step, totals, sums, types };
}

/**
 * Return the share of completed jobs among completed and failed jobs. Return NaN if no job has
 * completed or failed.
 */
export const success = ({ completed, failed }) => completed / (completed + failed);

/**
 * Return the job types with the most jobs, sorted by name, so that each type keeps its colour in
 * the chart.
 */
export const topTypes = (types) =>
  [...types]
    .sort(([, a], [, b]) => b.jobs - a.jobs)
    .slice(0, 8)
    .sort(([a], [b]) => a.localeCompare(b));
