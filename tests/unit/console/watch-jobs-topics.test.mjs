// Lists and rows on a client's topics: which they join and leave, and what makes them read.

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";
import { watchJobs, watchRow } from "../../../infra/console/lib/jobs/watch-jobs.js";
import { clientOf, leap } from "./world.mjs";

const STEP = 10;

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_800_000_000_000 });
});

test("a list that was closed during its read joins the topic of no job", async () => {
  const { client, asked } = clientOf();
  let answer;
  const read = new Promise((resolve) => (answer = resolve));
  const rows = {
    data: { jobs: [{ id: "j1", status: "pending", finished_at: null }] },
    error: null,
  };
  client.schema = () => ({
    rpc: (name) => ({
      abortSignal: async () => (name === "list_jobs" ? await read : { data: null, error: null }),
    }),
  });
  const watch = watchJobs(client, "acme");
  await leap(STEP);

  watch.close();
  answer(rows);
  await leap(STEP);

  assert.deepEqual(asked.opened, ["workspace:acme"]);
});

test("a list is on the topics of its live jobs, and on none once it is closed", async () => {
  const { client, asked } = clientOf();
  const row = (id) => ({ id, status: "pending", finished_at: null, last_seq: 0 });
  let jobs = ["j1", "j2"].map(row);
  const [filters, limits] = [[], new Set()];
  client.schema = (schema) => ({
    rpc: (name, { p_filter, p_limit }) => {
      assert.equal(schema, "work");
      if (p_filter) filters.push(p_filter);
      if (p_filter) limits.add(p_limit);
      return { abortSignal: async () => ({ data: name === "list_jobs" ? { jobs } : null }) };
    },
  });
  const filter = { tag: "import-7", workspace_id: "another" };
  let said = null;
  const onChange = (state) => (said = state.jobs.at(-1)?.progress);
  const watch = watchJobs(client, "acme", { filter, schema: "work", onChange });
  await leap(5 * STEP);
  assert.deepEqual(asked.opened, ["workspace:acme", "job:j1", "job:j2"]);
  assert.deepEqual(filters[0], { tag: "import-7", workspace_id: "acme" });
  assert.deepEqual([...limits], [20]);

  jobs = [{ ...jobs[0], status: "completed", finished_at: "2026-11-20T08:00:00Z" }, jobs[1]];
  watch.refresh();
  await leap(2000);
  assert.deepEqual(asked.left, ["job:j1"]);

  const [, , message] = asked.heard;
  const progress = { percentage: 7 };
  message({ payload: { job_id: "j2", seq: 1, type: "job.progress", data: { progress } } });
  await leap(2 * STEP);
  assert.deepEqual(said, progress);
  jobs = [row("j1"), row("j2")];
  asked.gone();
  watch.refresh();
  await leap(5 * STEP);
  assert.equal(asked.opened[3], "job:j1", "it runs again");

  jobs = jobs.map((job) => ({ ...job, finished_at: "2026-11-20T08:00:00Z" }));
  watch.refresh();
  await leap(STEP);
  assert.equal(watch.isLive, true, "others may come");
  jobs = [row("j3")];
  watch.refresh();
  watch.close();
  await leap(4000);
  assert.deepEqual(new Set(asked.left), new Set(["job:j1", "job:j2", "workspace:acme"]));
  assert.equal(asked.opened.length, 4);

  [jobs, asked.left] = [[row("j4")], []];
  const short = watchJobs(client, "acme", { schema: "work" });
  await leap(5 * STEP);
  short.close();
  await leap(2000);
  assert.ok(asked.left.includes("job:j4"), "of a job that still runs");
});

test("a row is read at once when a message says that it changed", async () => {
  const { client, asked } = clientOf({ id: "j1", status: "pending", last_seq: 0 });
  const watch = watchRow(client, "j1", {});
  await leap(STEP);
  asked.state("SUBSCRIBED");
  asked.on.system({ message: "Replication connection established" });
  await leap(STEP);
  const reads = () => asked.followed.filter(({ name }) => name === "get_job").length;
  const before = reads();

  asked.on.broadcast({ payload: { job_id: "j1", seq: 1, type: "job.leased", data: {} } });
  await leap(STEP);

  assert.equal(reads(), before + 1);
  assert.equal(asked.followed.find(({ name }) => name === "get_job").p_job_id, "j1");
  watch.close();
});

test("a list where much happens is read every four tenths of a second, unless it is told otherwise", async () => {
  for (const [reorder, pause] of [
    [undefined, 400],
    [50, 50],
  ]) {
    const { client, asked } = clientOf({ jobs: [] });
    const options = reorder ? { reorder } : {};
    const watch = watchJobs(client, "acme", options);
    await leap(STEP);
    asked.state("SUBSCRIBED");
    asked.on.system({ message: "Replication connection established" });
    await leap(1000);
    const reads = () => asked.followed.filter(({ name }) => name === "list_jobs").length;
    const before = reads();
    asked.on.broadcast({ payload: { job_id: "j1", seq: 1, type: "job.leased", data: {} } });
    await leap(pause - STEP);
    assert.equal(reads(), before);
    await leap(2 * STEP);
    assert.equal(reads(), before + 1);
    watch.close();
  }
});
