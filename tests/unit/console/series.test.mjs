// Ranges over which numbers are shown: which of them an address names.

import assert from "node:assert/strict";
import { test } from "node:test";

const { RANGES, rangeOf } = await import("../../../infra/console/lib/series.js");

test("a range that an address names is taken", () => {
  for (const word of Object.keys(RANGES)) assert.equal(rangeOf(word, "1h"), word);
});

test("no word, another word and what every object inherits are the default", () => {
  for (const word of [null, "", "2h", "constructor", "toString", "__proto__"])
    assert.equal(rangeOf(word, "1h"), "1h", String(word));
});
