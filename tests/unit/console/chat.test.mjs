// A text that is being written, out of pieces that overlap; messages of several reads.

import assert from "node:assert/strict";
import { test } from "node:test";

import { joined, merged } from "../../../shared/minutehand_apps/chat/console/join.js";

const NOTHING = { from: 0, text: "" };
const piece = (from, message) => ({ stage: `text:${from}`, message });

test("pieces that overlap become the whole, counted by code points", () => {
  let known = joined(NOTHING, piece(0, "\u{1F409} roars"));
  known = joined(known, piece(2, "roars and"));
  known = joined(known, piece(4, "ars and flies"));
  assert.deepEqual(known, { from: 0, text: "\u{1F409} roars and flies" });
});

test("a text that begins anew replaces the old one", () => {
  assert.equal(joined(joined(NOTHING, piece(0, "First try")), piece(0, "Sec")).text, "Sec");
});

test("who comes late, or missed too much, has the end", () => {
  assert.deepEqual(joined(NOTHING, piece(900, "the end")), { from: 900, text: "the end" });
  assert.deepEqual(joined({ from: 0, text: "abc" }, piece(10, "xyz")), { from: 10, text: "xyz" });
  assert.deepEqual(joined({ from: 10, text: "xyz" }, piece(4, "abcdefxyz")), {
    from: 4,
    text: "abcdefxyz",
  });
});

test("other progress leaves what is known", () => {
  const known = { from: 0, text: "abc" };
  for (const progress of [null, undefined, {}, { stage: "text:", message: "x" }]) {
    assert.equal(joined(known, progress), known);
  }
  assert.deepEqual(joined(known, { stage: "text:0", message: null }), NOTHING);
});

test("a second attempt's text is not joined to the first one's", () => {
  let known = joined(NOTHING, piece(0, "A worker that was killed wrote this"));
  known = joined(known, { stage: "writing", message: null });
  assert.deepEqual(known, NOTHING);
  assert.deepEqual(joined(known, piece(9, "else")), { from: 9, text: "else" });
});

test("messages are merged by their place", () => {
  const pages = [
    [{ seq: 2, text: "old" }, { seq: 3 }],
    [{ seq: 1 }, { seq: 2, text: "new" }],
  ];
  assert.deepEqual(merged(...pages), [{ seq: 1 }, { seq: 2, text: "new" }, { seq: 3 }]);
});
