// Ranges of time that an address names: over which numbers are shown, and since when a list goes.

import assert from "node:assert/strict";
import { test } from "node:test";

import "./page.mjs";

const { RANGES, rangeOf } = await import("../../../infra/console/lib/series.js");
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
