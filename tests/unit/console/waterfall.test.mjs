// Tests of the rows of a waterfall.

import assert from "node:assert/strict";
import { test } from "node:test";
import { rowsOf, totalsOf } from "../../../infra/console/lib/waterfall.js";

const at = (ms) => (ms === null ? null : new Date(ms).toISOString());
const attempt = (number, from, to, outcome, more = {}) => ({
  attempt: number,
  fence: number,
  leased_at: at(from),
  ended_at: at(to),
  outcome,
  error_message: null,
  ...more,
});
const step = (name, from, to, kind = "step") => ({
  name,
  kind,
  started_at: at(from),
  ended_at: at(to),
});
const job = (id, more) => ({
  id,
  parent_id: null,
  job_type: id,
  status: "completed",
  created_at: at(0),
  finished_at: at(10_000),
  attempts: [],
  steps: [],
  ...more,
});

// Attempt 1 fails. Attempt 2 spawns two children, waits for them from second 3 to second 8, and
// ends.
const parent = job("parent", {
  attempts: [
    attempt(1, 500, 1500, "retry", { error_message: "no answer" }),
    attempt(2, 2500, 3000, "waiting"),
    attempt(2, 8000, 10_000, "completed"),
  ],
  steps: [step("read", 600, 900), step("pages", 3000, 8000, "children"), step("bind", 8100, 9900)],
});
const quick = job("quick", {
  parent_id: "parent",
  created_at: at(2900),
  finished_at: at(4000),
  attempts: [attempt(1, 3000, 4000, "completed")],
});
const slow = job("slow", {
  parent_id: "parent",
  created_at: at(2900),
  finished_at: at(7900),
  attempts: [attempt(1, 3100, 7900, "completed")],
  steps: [step("render", 3200, 7800)],
});
const trace = { jobs: [parent, quick, slow] };

test("rows come parents first and in order of time", () => {
  const open = rowsOf(trace, 60_000);

  assert.deepEqual(
    open.map((row) => row.name),
    [
      "parent",
      "Attempt 1",
      "read",
      "Wait for retry",
      "quick",
      "slow",
      "render",
      "pages",
      "Attempt 2",
      "bind",
    ],
  );
  assert.equal(open[0].level, 0);
  assert.equal(open.find((row) => row.name === "render").level, 2);
  assert.equal(open.find((row) => row.name === "Attempt 1").error, "no answer");
});

test("the totals of a job have no gap", () => {
  const times = { queue_ms: 500, runs: 3, run_ms: 3490 };
  const whole = { ...parent, started_at: at(500), times };
  assert.deepEqual(totalsOf(whole, 60_000), {
    queue: 500,
    run: 3490,
    inSteps: 2100,
    retry: 1000,
    suspended: 5000,
    other: 0,
  });
  assert.equal(totalsOf({ ...whole, times: { runs: 4 } }, 0), null);
});

test("the time since the last step of a running job has a row", () => {
  const steps = [step("read", 1000, 2000)];
  const attempts = [attempt(1, 1000, null, null)];
  const streams = [{ stream: "answer", first_at: at(2500), last_at: at(2600) }];
  const times = { queue_ms: 1000 };
  const running = job("running", { status: "processing", finished_at: null, started_at: at(1000) });
  const jobs = [{ ...running, attempts, steps, streams, times }];
  const namesAt = (now) => rowsOf({ jobs }, now).map(({ name, from, to }) => [name, from, to]);
  const before = [
    ["Queue", 0, 1000],
    ["read", 1000, 2000],
  ];
  // the output may have gone on
  assert.deepEqual(namesAt(9000), [
    ["running", 1000, 9000],
    ...before,
    ["Output: answer", 2500, 9000],
  ]);
  assert.deepEqual(namesAt(30_000), [
    ["running", 1000, 30_000],
    ...before,
    ["Not in a step", 2000, 30_000],
    ["Output: answer", 2500, 2600],
  ]);
});

test("what runs ends now", () => {
  const attempts = [attempt(1, 1000, null, null), attempt(2, 2000, null, null)];
  const steps = [step("upload", 2000, null)];
  const running = job("running", { status: "processing", finished_at: null, attempts, steps });
  const rows = rowsOf({ jobs: [running] }, 30_000);

  assert.deepEqual(
    rows.map(({ to, isRunning }) => [to, isRunning]),
    Array(4).fill([30_000, true]),
  );
});

test("a job between two attempts is retrying", () => {
  const next = { status: "pending", state: "retrying", next_retry_at: at(20_000) };

  assert.equal(rowsOf({ jobs: [job("a", next)] }, 0)[0].word, "Retrying");
});

test("a large trace shows the children without their steps", () => {
  const jobs = [parent];
  for (let n = 0; n < 100; n += 1)
    jobs.push(
      job(`child${n}`, { parent_id: "parent" }),
      job(`low${n}`, { parent_id: `child${n}` }),
    );
  const names = rowsOf({ jobs }, 0).map(({ name }) => name);

  assert.ok(names.includes("child99") && names.includes("Attempt 1"));
  assert.ok(!names.some((name) => name.startsWith("low")));
});

test("an attempt whose lease only expired is not said to have lost its process", () => {
  const lost = (more) => attempt(1, 500, 1500, "died", { error_message: "no call", ...more });
  const wordOf = (more) => rowsOf({ jobs: [job("one", { attempts: [lost(more)] })] }, 0)[1].word;
  assert.equal(wordOf({ process_ended: false }), "Lease expired");
  assert.equal(wordOf({ process_ended: true }), "Process died");
});
