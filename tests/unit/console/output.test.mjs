// Tests how output is merged if pieces are lost, repeated, reordered or overlapping.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Output } from "../../../infra/console/lib/jobs/output.js";

const ALPHABET = [..."abc äöü€🌍\n"];

/** Return a seeded generator of integers from 0 to `most` - 1. */
function chance(seed) {
  let state = seed;
  return (most) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * most);
  };
}

/** Return the pieces of an attempt in order, and their complete content. `facts` has items. */
function attemptOf(stream, attempt, pick) {
  const isText = stream !== "facts";
  const pieces = [{ stream, attempt, from: 0, next: 0 }];
  let whole = [];
  for (let n = 0; n < 40; n += 1) {
    const units = Array.from({ length: 1 + pick(9) }, () =>
      isText ? ALPHABET[pick(ALPHABET.length)] : { n: pick(100) },
    );
    const from = whole.length;
    whole = [...whole, ...units];
    pieces.push(pieceOf(stream, attempt, whole, from, whole.length));
  }
  return { pieces, whole };
}

function pieceOf(stream, attempt, whole, from, next) {
  const units = whole.slice(from, next);
  const content = stream === "facts" ? { items: units } : { text: units.join("") };
  return { stream, attempt, from, next, ...content };
}

for (let seed = 1; seed <= 200; seed += 1)
  test(`each character is delivered once and in order: seed ${seed}`, () => {
    const pick = chance(seed);
    const output = new Output();
    const got = {};
    const keep = (pieces) => {
      for (const { stream, attempt, from, text, items } of pieces) {
        if (from === 0) got[stream] = { attempt, units: [] };
        assert.equal(attempt, got[stream].attempt);
        assert.equal(from, got[stream].units.length);
        got[stream].units.push(...(items ?? text));
      }
    };
    for (const attempt of [1, 2, 4])
      for (const stream of ["reply", "facts"]) {
        const { pieces, whole } = attemptOf(stream, attempt, pick);
        const sent = pieces.flatMap((piece) => Array(pick(3)).fill(piece)); // none, one or two
        for (let n = 1; n < sent.length; n += 1)
          if (pick(4) === 0) [sent[n - 1], sent[n]] = [sent[n], sent[n - 1]];
        for (const piece of sent) {
          const isCut = pick(8) === 0; // too long for a message, which then has only the offsets
          const bare = { ...piece, text: undefined, items: undefined };
          keep(output.add(isCut ? bare : piece, { isMessage: true }));
          if (pick(6) > 0) continue;
          // read from the known end, and let the response arrive after newer messages
          const known = output.ends[stream];
          const until = Math.max(known.next, pick(piece.next + 1));
          keep(output.add(pieceOf(stream, attempt, whole, known.next, until)));
        }
        const row = { [stream]: { attempt, next: whole.length } };
        if (output.isBehind(row)) {
          const from = output.ends[stream]?.attempt === attempt ? output.ends[stream].next : 0;
          keep(output.add(pieceOf(stream, attempt, whole, from, whole.length)));
        }
        assert.deepEqual([output.isBehind(row), output.hasGap], [false, false]);
        assert.deepEqual(got[stream], { attempt, units: whole });
        assert.deepEqual(output.content[stream], stream === "facts" ? whole : whole.join(""));
        assert.deepEqual(output.add(pieces[5]), []);
        assert.deepEqual(output.add({ ...pieces[5], attempt: attempt - 1 }), []);
      }
  });

test("a new attempt replaces the content of its own stream only", () => {
  const output = new Output();
  output.add(pieceOf("reply", 1, [..."Hello"], 0, 5));
  output.add(pieceOf("facts", 1, [1], 0, 1));
  const before = output.content;
  const begun = output.add({ stream: "reply", attempt: 2, from: 0, next: 0 });
  assert.deepEqual(begun, [pieceOf("reply", 2, [], 0, 0)]);
  assert.deepEqual(output.content, { reply: "", facts: [1] });
  assert.deepEqual(before, { reply: "Hello", facts: [1] }); // earlier objects do not change
  const late = pieceOf("reply", 1, [..."Hello you"], 0, 9);
  assert.deepEqual(output.add(late), []);
  const facts = [1, 2, 3, 4];
  output.add(pieceOf("facts", 2, facts, 3, 4));
  assert.deepEqual([output.content.facts, output.hasGap], [[1], true]);
  output.add(pieceOf("facts", 2, facts, 0, 3));
  assert.deepEqual([output.content.facts, output.hasGap], [facts, false]);
});

test("a reader with an offset gets the rest, or all of another attempt", () => {
  const rest = (after) => {
    const output = new Output({ reply: after });
    return output.add(pieceOf("reply", 3, [..."🌍 said"], 0, 6));
  };
  const piece = { stream: "reply", attempt: 3, next: 6 };
  assert.deepEqual(rest({ attempt: 3, next: 2 }), [{ ...piece, from: 2, text: "said" }]);
  assert.deepEqual(rest({ next: 2 }), [{ ...piece, from: 2, text: "said" }]);
  assert.deepEqual(rest({ attempt: 2, next: 2 }), [{ ...piece, from: 0, text: "🌍 said" }]);
});
