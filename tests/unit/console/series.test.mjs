// Ranges of time that an address names: over which numbers are shown, and since when a list goes.

import assert from "node:assert/strict";
import { test } from "node:test";

import "./page.mjs";

const { fold, RANGES, rangeOf } = await import("../../../infra/console/lib/series.js");
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
    point(2, { cancelled: 1, redriven: 3 }),
  ];

  const { depth, sums } = fold({ now: at(2), since: at(0), step_seconds: 60, live: 6, points });

  assert.deepEqual(depth, [9, 4, 6]);
  assert.equal(sums.redriven, 3);
});
