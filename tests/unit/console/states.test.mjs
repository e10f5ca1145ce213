// A job's state as people look for it, and when it runs next; the database's queue.state_of twin.

import assert from "node:assert/strict";
import { test } from "node:test";
import {
  FRESHNESS,
  NAMES,
  nextRunOf,
  outcomeOf,
  stateOf,
  stateOfJob,
  STATES,
  statusOf,
} from "../../../infra/console/lib/states.js";

const NOW = Date.parse("2026-11-20T08:00:00Z");
const LATER = "2026-11-20T08:00:01Z";
const BEFORE = "2026-11-20T07:59:59Z";
const pending = (more) => ({ status: "pending", attempts: 0, ...more });

test("a pending job is queued, scheduled or retrying, by its times and attempts", () => {
  const of = (more) => stateOfJob(pending(more), NOW);

  assert.equal(of({}), "queued");
  assert.equal(of({ scheduled_for: LATER }), "scheduled");
  assert.equal(of({ scheduled_for: BEFORE }), "queued");
  assert.equal(of({ attempts: 1, next_retry_at: LATER }), "retrying");
  assert.equal(of({ attempts: 1, next_retry_at: BEFORE }), "queued");
  assert.equal(of({ attempts: 0, next_retry_at: LATER }), "scheduled", "snoozed before a failure");
});

test("any other status is one state, and a state is one status or a part of pending", () => {
  const statuses = ["processing", "waiting", "completed", "failed", "cancelled"];
  const states = statuses.map((status) => stateOfJob({ status, attempts: 1 }, NOW));

  assert.deepEqual(states, ["running", "suspended", "completed", "failed", "cancelled"]);
  assert.deepEqual(states.map(statusOf), statuses);
  assert.deepEqual(["queued", "scheduled", "retrying"].map(statusOf), [null, null, null]);
  assert.deepEqual(
    NAMES.filter((name) => statusOf(name) === null),
    NAMES.slice(0, 3),
  );
});

test("a word is shown for states, statuses and what a later version may add", () => {
  assert.equal(stateOf("processing"), STATES.running);
  assert.equal(stateOf("scheduled"), STATES.scheduled);
  assert.equal(stateOf("frozen").word, "frozen");
  assert.equal(stateOf(undefined).word, "unknown");
});

test("the next run is the retry's, else the schedule's; of a wait its end; of others none", () => {
  assert.equal(nextRunOf(pending({ next_retry_at: LATER, scheduled_for: BEFORE })), LATER);
  assert.equal(nextRunOf(pending({ scheduled_for: BEFORE })), BEFORE);
  assert.equal(nextRunOf(pending({})), null);
  assert.equal(nextRunOf({ status: "waiting", waiting_for: { until: LATER } }), LATER);
  assert.equal(nextRunOf({ status: "waiting", waiting_for: { timeout_at: LATER } }), LATER);
  assert.equal(nextRunOf({ status: "waiting", next_run_at: LATER }), LATER);
  assert.equal(nextRunOf({ status: "processing", next_retry_at: LATER }), null);
});

test("each state has its name as a word, a mark of its own, and a tone of how it stands", () => {
  const tones = {
    ...{ queued: "pending", scheduled: "pending", retrying: "failed", running: "processing" },
    ...{ suspended: "waiting", completed: "completed", failed: "failed", cancelled: "cancelled" },
  };
  assert.deepEqual(NAMES, Object.keys(tones), "in the order of a life");
  for (const [name, { word, tone }] of Object.entries(STATES))
    assert.deepEqual([word.toLowerCase(), tone], [name, tones[name]]);
  const marks = Object.values(STATES).map(({ mark }) => mark);
  assert.deepEqual(marks, "ring clock again dot pause check cross slash".split(" "));
  assert.deepEqual(stateOf("frozen"), { word: "frozen", tone: "pending", mark: "ring" });
  assert.equal(stateOf("pending"), STATES.queued);
});

for (const [outcome, word, tone] of [
  [null, "Running", "processing"],
  [undefined, "Running", "processing"],
  ["completed", "Completed", "completed"],
  ["retry", "Failed, retried", "failed"],
  ["failed", "Failed", "failed"],
  ["lost", "Worker lost", "failed"],
  ["snoozed", "Snoozed", "pending"],
  ["released", "Released", "pending"],
  ["waiting", "Suspended", "waiting"],
  ["cancelled", "Cancelled", "cancelled"],
])
  test(`how an attempt ended is a word: ${outcome}`, () => {
    assert.deepEqual(outcomeOf(outcome), { word, tone });
  });

test("how fresh a page is has a word, a tone and the reason", () => {
  const said = Object.entries(FRESHNESS).map(([name, { word, tone, hint }]) => {
    assert.match(hint, /^[A-Z].+\.$/);
    return [name, word, tone];
  });
  assert.deepEqual(said, [
    ["live", "Live", "completed"],
    ["catching-up", "Catching up", "pending"],
    ["polling", "Polling", "waiting"],
    ["offline", "Offline", "failed"],
  ]);
});

test("a job is late by the clock, and a first attempt that was put off is scheduled", () => {
  const soon = new Date(Date.now() + 60_000).toISOString();
  assert.equal(stateOfJob(pending({ scheduled_for: soon })), "scheduled");
  const due = new Date(Date.now() - 60_000).toISOString();
  assert.equal(stateOfJob(pending({ scheduled_for: due })), "queued");
  assert.equal(stateOfJob(pending({ scheduled_for: new Date(NOW).toISOString() }), NOW), "queued");
  const unknown = { status: "pending", next_retry_at: soon };
  assert.equal(stateOfJob(unknown), "scheduled", "a row without its attempts");
  assert.equal(nextRunOf({ status: "waiting" }), null);
});
