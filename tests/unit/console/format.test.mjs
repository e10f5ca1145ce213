// Tests of times in sentences of workers and of the engine, of states, and of links.

import assert from "node:assert/strict";
import { test } from "node:test";
import {
  atLeast,
  INSTANT,
  instantOf,
  relative,
  safeUrl,
  serverNow,
  setClock,
} from "../../../infra/console/lib/format.js";
import { stateAt } from "../../../infra/console/lib/states.js";

const NOW = Date.parse("2026-11-26T23:59:50Z");

for (const [sentence, at] of [
  ["held since 2026-11-20 08:36:55+00", "2026-11-20T08:36:55Z"],
  ["it is asked again at 23:59:58 UTC", "2026-11-26T23:59:58.000Z"],
  ["it is asked again at 00:00:20 UTC", "2026-11-27T00:00:20.000Z"],
  ["it is asked again at 11:59:00 UTC", "2026-11-27T11:59:00.000Z"],
  ["it is asked again at 23:10 UTC on 27 November.", "2026-11-27T23:10:00.000Z"],
])
  test(sentence, () => {
    const parts = sentence.split(INSTANT);
    assert.equal(parts.length, 3);
    assert.equal(Date.parse(instantOf(parts[1], NOW)), Date.parse(at));
  });

test("a delayed job is queued once it is due", () => {
  const job = { status: "pending", state: "scheduled", scheduled_for: "2026-11-26T23:59:50Z" };
  assert.equal(stateAt(job, NOW - 1), "scheduled");
  assert.equal(stateAt(job, NOW), "queued");
});

test("a number is not an instant", () => {
  assert.equal("It ran for 12:30 minutes at 2 UTC".split(INSTANT).length, 1);
});

test("a link leads to a page and runs no script", () => {
  assert.equal(safeUrl("https://a.test/"), "https://a.test/");
  assert.equal(safeUrl("javascript:alert(1)"), null);
});

test("times use the server's clock, because a browser's may be hours off", () => {
  const at = new Date(Date.now() - 7_200_000).toISOString();
  setClock(at);
  assert.equal(relative(at), "now");
  setClock(new Date(Date.now() - 1500).toISOString()); // it may come from a slow response
  assert.ok(Math.abs(serverNow() - Date.now()) < 100);
});

test("a count that stopped at 10,000 is a minimum", () => {
  assert.deepEqual(
    [9999, 10_000].map((count) => atLeast(count)),
    ["9,999", "10,000+"],
  );
});

test("a relative time of less than ten hours or days has minutes or hours", () => {
  assert.equal(relative("2026-11-26T23:58:50Z", NOW), "1 min ago");
  assert.equal(relative("2026-11-27T01:58:50Z", NOW), "in 1 h 59 min");
  assert.equal(relative("2026-11-26T21:59:50Z", NOW), "2 h ago");
  assert.equal(relative("2026-11-26T11:19:50Z", NOW), "12 h ago");
});
