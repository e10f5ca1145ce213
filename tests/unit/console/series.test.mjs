// Ranges of time that an address names: over which numbers are shown, and since when a list goes.

import assert from "node:assert/strict";
import { test } from "node:test";

import "./page.mjs";

const { busiest, fold, RANGES, rangeOf, success } = await import(
  "../../../infra/console/lib/series.js"
);
const { beginOf } = await import("../../../infra/console/parts/filters.js");

const INHERITED = ["constructor", "toString", "__proto__"];

test("a range that an address names is taken", () => {
  for (const word of Object.keys(RANGES)) assert.equal(rangeOf(word, "1h"), word);
});

test("no word, another word and what every object inherits are the default", () => {
  for (const word of [null, "", "2h", ...INHERITED])
    assert.equal(rangeOf(word, "1h"), "1h", String(word));
});

test("a list begins at a whole minute, and an instant or any other word stays itself", () => {
  const now = Date.parse("2026-11-21T12:34:56Z");
  assert.equal(beginOf("15m", now), "2026-11-21T12:19:00.000Z");
  assert.equal(beginOf("24h", now), "2026-11-20T12:34:00.000Z");
  for (const word of ["2026-11-20T00:00:00Z", ...INHERITED]) assert.equal(beginOf(word, now), word);
});

test("how many jobs had not ended is counted back from now, over all that adds and ends jobs", () => {
  const none = { enqueued: 0, completed: 0, failed: 0, cancelled: 0, retried: 0, lost: 0 };
  const at = (minute) => `2026-11-21T12:0${minute}:00Z`;
  const point = (minute, counts) => ({
    at: at(minute),
    job_type: "a",
    redriven: 0,
    ...none,
    ...counts,
  });
  const points = [
    point(0, { enqueued: 9 }),
    point(1, { completed: 2, failed: 3, retried: 5, lost: 1 }),
    point(2, { cancelled: 1, redriven: 3, run_p95_ms: 70 }),
    { ...point(2, { enqueued: "1", failed: 1 }), job_type: "b", queue_p95_ms: 9 },
    ...[point(3, { enqueued: 9 }), { ...point(0, { enqueued: 9 }), at: "2026-11-21T11:59:00Z" }],
  ];

  const {
    at: times,
    depth,
    sums,
    totals,
    types,
  } = fold({ now: at(2), since: at(0), step_seconds: 60, live: 6, points });

  assert.deepEqual(depth, [9, 4, 6]);
  assert.deepEqual([sums.redriven, sums.enqueued, totals.failed], [3, 10, [0, 3, 1]]);
  assert.deepEqual(
    times.map((time) => new Date(time * 1000).toISOString().slice(11, 16)),
    ["12:00", "12:01", "12:02"],
  );
  const { a, b } = Object.fromEntries(types);
  assert.deepEqual(
    [a.run, b.run, b.queue],
    [
      [null, null, 70],
      [null, null, null],
      [null, null, 9],
    ],
  );
  assert.deepEqual(
    [a.failed, b.failed],
    [
      [0, 3, 0],
      [0, 0, 1],
    ],
  );
});

test("a share of nothing is not known, and no chart has more than 500 points", () => {
  assert.deepEqual(
    [success({ completed: 3, failed: 1 }), success({ completed: 0, failed: 0 })],
    [0.75, NaN],
  );
  const [since, now] = ["2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"];
  const { at, depth } = fold({ since, now, step_seconds: 60, live: -1, points: [] });
  assert.deepEqual([at.length, depth[0]], [500, 0]);
});

test("of all types the eight with most jobs are shown, by name", () => {
  const lines = (count) => ({ completed: [count], failed: [0, 1], enqueued: [2] });
  const types = new Map(
    ["j", "i", "h", "g", "f", "e", "d", "c", "b"].map((name, at) => [name, lines(at)]),
  );
  types.set("a", { completed: [0], failed: [50], enqueued: [0] });

  assert.deepEqual(
    busiest(types).map(([name]) => name),
    ["a", "b", "c", "d", "e", "f", "g", "h"],
  );
});

test("a range is as many minutes as its word says, and has words for a sentence", () => {
  const minutes = { m: 1, h: 60, d: 1440 };
  const words = ["15 minutes", "hour", "6 hours", "24 hours", "7 days", "30 days"];
  const names = ["15m", "1h", "6h", "24h", "7d", "30d"];
  assert.deepEqual(
    Object.entries(RANGES),
    names.map((name, n) => [name, [parseInt(name, 10) * minutes[name.at(-1)], words[n]]]),
  );
});

test("each count of a point is summed, and types with none stay in the order of their names", () => {
  const names = ["enqueued", "completed", "failed", "cancelled", "retried", "lost", "redriven"];
  const point = Object.fromEntries(names.map((name, n) => [name, n + 1]));
  const at = "2026-11-20T08:00:00Z";
  const points = [{ ...point, at, job_type: "a" }];
  const { sums } = fold({ now: at, since: at, step_seconds: 60, live: 0, points });
  assert.deepEqual(sums, point);

  const none = { completed: [], failed: [], enqueued: [] };
  const types = new Map([
    ["c", none],
    ["b", { ...none, failed: [1] }],
    ["a", none],
  ]);
  assert.deepEqual(
    busiest(types).map(([name]) => name),
    ["a", "b", "c"],
  );
});
