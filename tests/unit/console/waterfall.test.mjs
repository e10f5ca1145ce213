// Tests of the spans and rows of a waterfall.

import assert from "node:assert/strict";
import { test } from "node:test";
import { extentOf, placeOf, rowsOf, spansOf } from "../../../infra/console/lib/waterfall.js";

const at = (ms) => new Date(1_700_000_000_000 + ms).toISOString();
const attempt = (number, from, to, outcome, more = {}) => ({
  attempt: number,
  fence: number,
  leased_at: at(from),
  ended_at: to === null ? null : at(to),
  outcome,
  error_message: null,
  ...more,
});
const step = (name, kind, from, to) => ({
  name,
  kind,
  started_at: at(from),
  ended_at: to === null ? null : at(to),
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
  steps: [
    step("read", "step", 600, 900),
    step("pages", "children", 3000, 8000),
    step("bind", "step", 8100, 9900),
  ],
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
  steps: [step("render", "step", 3200, 7800)],
});
const trace = { jobs: [parent, quick, slow], more: false };

test("a job's time is split into queued, run, backed off and waited", () => {
  assert.deepEqual(
    spansOf(parent, 0).map(({ kind, from, to }) => [kind, to - from]),
    [
      ["queued", 500],
      ["run", 1000],
      ["backoff", 1000],
      ["run", 500],
      ["wait", 5000],
      ["run", 2000],
    ],
  );
});

test("rows come parents first and in order of time", () => {
  const open = rowsOf(trace, Date.parse(at(60_000)));

  assert.deepEqual(
    open.map((row) => row.name),
    ["parent", "Attempt 1", "read", "quick", "slow", "render", "pages", "Attempt 2", "bind"],
  );
  assert.equal(open[0].level, 0);
  assert.equal(open.find((row) => row.name === "render").level, 2);
  assert.equal(open.find((row) => row.name === "Attempt 1").error, "no answer");
});

test("running spans end now, and the extent grows with them", () => {
  const running = job("running", {
    status: "processing",
    finished_at: null,
    attempts: [attempt(1, 1000, null, null)],
    steps: [step("upload", "step", 2000, null)],
  });
  const rows = rowsOf({ jobs: [running] }, Date.parse(at(30_000)));

  assert.ok(rows.every((row) => row.isRunning));
  assert.equal(extentOf(rows).to, Date.parse(at(30_000)));
  assert.deepEqual(extentOf([{ from: 5, to: 5 }]), { from: 5, to: 105 });
  const place = placeOf({ from: 150, to: 175 }, { from: 100, to: 200 });
  assert.deepEqual(place, { left: 50, width: 25 });
});

test("an unfinished job waits until now, and a retry shows its time", () => {
  const now = Date.parse(at(5000));
  const attempts = [attempt(1, 0, 1000, "waiting")];
  const open = { finished_at: null, attempts };
  const kinds = (more) => spansOf(job("open", { ...open, ...more }), now).map(({ kind }) => kind);

  assert.deepEqual(kinds({ status: "waiting" }), ["run", "wait"]);
  assert.deepEqual(kinds({ status: "processing" }), ["run"]);
  const pending = job("later", { ...open, status: "pending", next_retry_at: at(9000) });
  const [row] = rowsOf({ jobs: [pending] }, now);
  assert.deepEqual([row.until, row.isRunning], [Date.parse(at(9000)), true]);
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
