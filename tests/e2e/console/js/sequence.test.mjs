// Order, duplicates, gaps and snapshots: the pure half of lib/jobs.js.

import assert from "node:assert/strict";
import { test } from "node:test";
import { applyEvent, ENDED, normalizeEvent, Sequence } from "../../../../infra/console/lib/jobs.js";
import { eventsOf } from "../../../../infra/console/lib/jobs/sequence.js";
import { randomness } from "./world.mjs";

const events = (count) => Array.from({ length: count }, (_, index) => ({ seq: index + 1 }));
const shuffled = (list, random) =>
  list.map((item) => [random(), item]).sort((a, b) => a[0] - b[0]).map(([, item]) => item);

test("events in any order, repeated, come out in order and once", () => {
  for (let seed = 1; seed <= 200; seed += 1) {
    const random = randomness(seed);
    const all = events(40);
    const sequence = new Sequence();

    const out = shuffled([...all, ...all.filter(() => random() < 0.3)], random).flatMap((one) => sequence.offer([one]));

    assert.deepEqual(out.map((event) => event.seq), all.map((event) => event.seq));
    assert.equal(sequence.hasGap, false);
  }
});

test("a missing event holds back the later ones and is known to be missing", () => {
  const sequence = new Sequence(5);

  assert.deepEqual(sequence.offer([{ seq: 8 }, { seq: 7 }]), []);
  assert.equal(sequence.hasGap, true);
  assert.deepEqual(sequence.offer([{ seq: 6 }]).map((event) => event.seq), [6, 7, 8]);
  assert.equal(sequence.hasGap, false);
  assert.equal(sequence.last, 8);
});

test("an endless gap costs bounded memory and is still known", () => {
  const sequence = new Sequence();
  for (let seq = 2; seq < 5000; seq += 1) sequence.offer([{ seq }]);

  assert.equal(sequence.hasGap, true);
  assert.equal(sequence.offer([{ seq: 1 }]).length, 1001);
  assert.equal(sequence.hasGap, true, "the dropped ones are still missing");

  sequence.offer(events(5000).slice(1001));
  sequence.wasReadToTheEnd();
  assert.equal(sequence.hasGap, false);
});

test("a snapshot at any point plus the stream gives the same row as the stream alone", () => {
  const stream = [
    ["job.created", { status: "pending", attempts: 0 }],
    ["job.leased", { status: "processing", attempts: 1 }],
    ["job.progress", { progress: { percentage: 10 }, attempts: 1 }],
    ["job.retried", { status: "pending", attempts: 1, error_message: "no", next_retry_at: "2026-11-20T09:00:00Z" }],
    ["job.leased", { status: "processing", attempts: 2 }],
    ["job.waiting", { status: "waiting", attempts: 2, wait: { kind: "ask", question: "Which?" } }],
    ["job.resumed", { status: "pending", attempts: 2 }],
    ["job.leased", { status: "processing", attempts: 2 }],
    ["job.completed", { status: "completed", attempts: 2 }],
  ].map(([type, data], index) => ({ job_id: "j", seq: index + 1, type, data, at: `2026-11-20T08:00:0${index}Z` }));
  const replay = (from, row) => stream.slice(from).reduce(applyEvent, row);
  const start = { id: "j", last_seq: 0, status: "pending", attempts: 0 };
  const whole = replay(0, start);

  assert.equal(whole.status, "completed");
  assert.ok(ENDED.has(whole.status) && whole.completed_at);
  for (let at = 0; at <= stream.length; at += 1) {
    const snapshot = stream.slice(0, at).reduce(applyEvent, start);
    assert.deepEqual(replay(0, snapshot), whole, `overlapping everything at ${at}`);
    assert.deepEqual(replay(at, snapshot), whole, `overlapping nothing at ${at}`);
  }
});

test("frames, rows and rubbish become one shape or nothing", () => {
  const row = { job_id: "j", seq: 3, type: "job.log", data: { log: {} }, created_at: "2026-11-20T08:00:00Z" };

  assert.equal(normalizeEvent(row).at, row.created_at);
  assert.equal(normalizeEvent({ ...row, created_at: undefined, at: "x" }).at, "x");
  for (const rubbish of [null, undefined, 7, "x", {}, { seq: 1 }, { ...row, seq: "1e99" }, { ...row, seq: 1.5 }, { ...row, type: 3 }]) {
    assert.equal(normalizeEvent(rubbish), null);
  }
});

test("what the events of a message share counts for each that has none of its own", () => {
  const alone = { job_id: "a", seq: 1, type: "job.created", data: {}, at: "1" };
  const several = {
    data: { status: "pending" },
    at: "1",
    events: [
      { job_id: "a", seq: 1, type: "job.created" },
      { job_id: "b", seq: 4, type: "job.failed", data: { status: "failed" }, at: "2" },
    ],
  };

  assert.deepEqual(eventsOf(alone), [alone]);
  assert.deepEqual(eventsOf(several), [
    { job_id: "a", seq: 1, type: "job.created", data: { status: "pending" }, at: "1" },
    { job_id: "b", seq: 4, type: "job.failed", data: { status: "failed" }, at: "2" },
  ]);
});
