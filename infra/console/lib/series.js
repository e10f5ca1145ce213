// Numbers over time, as queue_series gives them, made ready for charts. Pure.

import { RANGES as ALL } from "./format.js";

const RETENTION_MINUTES = 11_520;

/** The ranges that the database keeps statistics for. */
export const RANGES = Object.fromEntries(
  Object.entries(ALL).filter(([, [minutes]]) => minutes <= RETENTION_MINUTES),
);

/** The range an address names; `otherwise` for any other word. */
export const rangeOf = (word, otherwise) =>
  word !== null && Object.hasOwn(RANGES, word) ? word : otherwise;

const COUNTS = ["enqueued", "completed", "failed", "retried", "lost"];

/** One value a point and line. */
export function bucketize({ now, since, step_seconds: step, points }) {
  const from = Date.parse(since) / 1000;
  const at = [];
  for (let time = from; time <= Date.parse(now) / 1000 && at.length < 500; time += step)
    at.push(time);
  const zeros = () => at.map(() => 0);
  const totals = Object.fromEntries(COUNTS.map((name) => [name, zeros()]));
  const sums = Object.fromEntries(COUNTS.map((name) => [name, 0]));
  const types = new Map();
  for (const point of points) {
    const index = Math.round((Date.parse(point.at) / 1000 - from) / step);
    if (index < 0 || index >= at.length) continue;
    if (!types.has(point.job_type)) {
      types.set(point.job_type, {
        ...Object.fromEntries(COUNTS.map((name) => [name, zeros()])),
        queue: at.map(() => null),
      });
    }
    const type = types.get(point.job_type);
    for (const name of COUNTS) {
      type[name][index] += Number(point[name]);
      totals[name][index] += Number(point[name]);
      sums[name] += Number(point[name]);
    }
    type.queue[index] = point.queue.p95_ms;
  }
  return { at, totals, sums, types };
}

/** The share of jobs that completed, of those that ended well or badly; NaN where none did. */
export const success = ({ completed, failed }) => completed / (completed + failed);

/** The types with the most jobs, in order of their names: a colour stays with its type. */
export function topTypes(types) {
  const sum = ({ completed, failed, enqueued }) =>
    [completed, failed, enqueued].flat().reduce((all, one) => all + one, 0);
  return [...types]
    .sort(([, a], [, b]) => sum(b) - sum(a))
    .slice(0, 8)
    .sort(([a], [b]) => a.localeCompare(b));
}
