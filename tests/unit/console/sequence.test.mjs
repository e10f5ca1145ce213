// Order, duplicates, gaps and snapshots: the pure half of lib/jobs.js.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { checkPause, DEFAULTS } from "../../../infra/console/lib/jobs/follower.js";
import {
  applyEvent,
  ENDED,
  eventsOf,
  MESSAGE_VERSION,
  normalizeEvent,
  Sequence,
} from "../../../infra/console/lib/jobs/sequence.js";
import { randomness } from "./world.mjs";

/** Passed by minutehand.client.sequence as well: tests/unit/client/test_sequence.py. */
const cases = JSON.parse(
  readFileSync(new URL("../../fixtures/sequence.json", import.meta.url), "utf8"),
);
/** Events of the given numbers, or of those from one to another. */
const numbers = (given) =>
  Array.isArray(given)
    ? given.map((seq) => ({ seq }))
    : Array.from({ length: given.to - given.from + 1 }, (_, at) => ({ seq: given.from + at }));
const events = (count) => Array.from({ length: count }, (_, index) => ({ seq: index + 1 }));
const shuffled = (list, random) =>
  list
    .map((item) => [random(), item])
    .sort((a, b) => a[0] - b[0])
    .map(([, item]) => item);

test("events in any order, repeated, come out in order and once", () => {
  for (let seed = 1; seed <= 200; seed += 1) {
    const random = randomness(seed);
    const all = events(40);
    const sequence = new Sequence();

    const out = shuffled([...all, ...all.filter(() => random() < 0.3)], random).flatMap((one) =>
      sequence.offer([one]),
    );

    assert.deepEqual(
      out.map((event) => event.seq),
      all.map((event) => event.seq),
    );
    assert.equal(sequence.hasGap, false);
  }
});

test("a snapshot at any point plus the stream gives the same row as the stream alone", () => {
  const stream = [
    ["job.created", { status: "pending", attempts: 0 }],
    ["job.leased", { status: "processing", attempts: 1 }],
    ["job.progress", { progress: { percentage: 10 }, attempts: 1 }],
    [
      "job.retried",
      {
        status: "pending",
        attempts: 1,
        error_message: "no",
        next_retry_at: "2026-11-20T09:00:00Z",
      },
    ],
    ["job.leased", { status: "processing", attempts: 2 }],
    ["job.waiting", { status: "waiting", attempts: 2, wait: { kind: "ask", question: "Which?" } }],
    ["job.resumed", { status: "pending", attempts: 2 }],
    ["job.leased", { status: "processing", attempts: 2 }],
    ["job.completed", { status: "completed", attempts: 2 }],
  ].map(([type, data], index) => ({
    job_id: "j",
    seq: index + 1,
    type,
    data,
    at: `2026-11-20T08:00:0${index}Z`,
  }));
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

for (const { name, after, steps } of cases.order) {
  test(`order: ${name}`, () => {
    const sequence = new Sequence(after);

    for (const step of steps) {
      const told =
        "page" in step
          ? sequence.offerPage(numbers(step.page), { isLast: step.is_last })
          : sequence.offer(numbers(step.offer));
      assert.deepEqual(told, numbers(step.told));
      assert.equal(sequence.last, step.last ?? sequence.last);
      assert.equal(sequence.hasGap, step.has_gap ?? sequence.hasGap);
    }
  });
}

for (const { name, job, events: told, after } of cases.jobs) {
  test(`row: ${name}`, () => {
    const row = told
      .map((event) => ({ ...event, job_id: job.id, at: `2026-11-20T08:00:0${event.seq}Z` }))
      .reduce(applyEvent, job);

    for (const [field, expected] of Object.entries(after)) {
      const found = field.split(".").reduce((value, part) => value[part], row);
      assert.deepEqual(found ?? null, expected, field);
    }
  });
}

for (const { name, frame, seq } of cases.frames) {
  test(`frame: ${name}`, () => assert.equal(normalizeEvent(frame)?.seq ?? null, seq));
}

for (const { name, message, events: carried } of cases.messages) {
  test(`message: ${name}`, () => assert.deepEqual(eventsOf(message), carried));
}

test("a row of job_events becomes the shape of a frame", () => {
  const row = {
    job_id: "j",
    seq: 3,
    type: "job.log",
    data: {},
    created_at: "2026-11-20T08:00:00Z",
  };

  const { created_at: at, ...frame } = row;
  assert.deepEqual(normalizeEvent(row), { ...frame, at });
  assert.deepEqual(normalizeEvent({ ...frame, at, data: null, seq: "3" }), { ...frame, at });
  for (const other of [{ seq: "1e99" }, { job_id: 7 }, { type: undefined }])
    assert.equal(normalizeEvent({ ...row, ...other }), null);
});

test("what is no event, or no whole group of them, costs none of those beside it", () => {
  assert.equal(MESSAGE_VERSION, 2, "messages may have groups");
  assert.deepEqual(eventsOf(null), [null]);
  const broken = [
    null,
    { seqs: [1] },
    { job_ids: ["a"] },
    { job_ids: ["a", "b"], seqs: [1, 2, 3] },
  ];
  assert.deepEqual(eventsOf({ groups: broken }), [{}, {}, {}, {}]);
  assert.deepEqual(new Sequence().offer([null, { seq: 1 }]), [{ seq: 1 }]);
});

const AT = "2026-11-20T08:00:00Z";
const running = { id: "j", last_seq: 4, status: "processing", started_at: "a", updated_at: "a" };
for (const [type, data, changes] of [
  ["job.progress", { progress: "half" }, {}],
  ["job.progress", { progress: { stage: "b" } }, { progress: { stage: "b" } }],
  ["job.cancel_requested", {}, { cancel_requested_at: AT, next_retry_at: null }],
  ["job.leased", {}, { next_retry_at: null }],
  ["job.log", null, {}],
])
  test(`an event changes of its row what it says, and no more: ${type} ${JSON.stringify(data)}`, () => {
    const job = { ...running, next_retry_at: "soon" };
    const event = { job_id: "j", seq: 5, type, data, at: AT };
    const always = { last_seq: 5, updated_at: AT, waiting_for: null };
    const ends = { finished_at: null, completed_at: null };

    assert.deepEqual(applyEvent(job, event), { ...job, ...always, ...ends, ...changes });
    assert.equal(applyEvent(job, { ...event, seq: 4 }), job, "the row has it already");
  });

test("the first event of a row without a number counts, and one without a time leaves the row's", () => {
  const queued = applyEvent({ updated_at: "a" }, { seq: 1, type: "job.log", at: AT });
  assert.equal(queued.started_at, undefined);
  const first = applyEvent({ updated_at: "a" }, { seq: 1, type: "job.leased", at: AT });
  assert.deepEqual([first.last_seq, first.started_at, first.updated_at], [1, AT, AT]);
  assert.equal(applyEvent(first, { seq: 2, type: "job.log" }).updated_at, AT);
});

test("a check is due", () => {
  for (const { name, idle, took, advised, pause } of cases.pauses)
    assert.equal(checkPause(idle, took, advised, DEFAULTS), pause, name);
});
