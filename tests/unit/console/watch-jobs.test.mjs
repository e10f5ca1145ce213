// The watch of many jobs.

import assert from "node:assert/strict";
import { test } from "node:test";
import { JobsWatch } from "../../../infra/console/lib/jobs/watch-jobs.js";
import { until, World } from "./world.mjs";

function watching(world) {
  const read = async () => [{ ...(await world.reads.job()), finished_at: null }];
  const options = { reorder: 0, silence: 100, firstSilence: 40, pollingInterval: 30 };
  const watch = new JobsWatch(world.topics, "job:j1", read, options);
  watch.start();
  return watch;
}

test("progress and log lines are taken as they come, a change of state is read", async () => {
  const world = new World();
  world.commit("job.created", { status: "pending", attempts: 0 });
  const watch = watching(world);
  const row = () => watch.state.jobs[0];
  world.connect();
  await until(() => watch.freshness === "live", "live");

  world.commit("job.leased", { status: "processing", attempts: 1 });
  world.commit("job.progress", { progress: { percentage: 40 } });
  assert.equal(row().progress.percentage, 40, "before any read");
  await until(() => row().status === "processing" && watch.freshness === "live", "read");
  const reads = world.readCount;
  world.commit("job.log", { log: { message: "a line" } });

  const old = { ...world.events[0], data: { progress: { percentage: 1 } } };
  for (const listener of world.listeners) listener.message(old);
  assert.deepEqual([row().last_seq, row().progress.percentage], [4, 40]);
  assert.equal(world.readCount, reads);
  watch.close();
});

test("a change whose message was dropped is found by a read, and distrusts the socket", async () => {
  const world = new World({ drop: 1 });
  world.commit("job.created", { status: "pending", attempts: 0 });
  const watch = watching(world);
  world.connect();
  await until(() => watch.freshness === "live", "live");

  world.commit("job.leased", { status: "processing", attempts: 1 });
  await until(() => watch.state.jobs[0].status === "processing", "the change");
  await until(() => watch.freshness !== "live", "distrust");
  watch.close();
});

test("progress that a message brought is kept over a read that it overtook", async () => {
  const world = new World();
  world.commit("job.leased", { status: "processing", attempts: 1, progress: { percentage: 1 } });
  const watch = watching(world);
  world.connect();
  await until(() => watch.freshness === "live", "live");
  const { job } = world.reads;
  let answer = null;
  world.reads.job = async () => {
    const row = await job();
    await new Promise((resolve) => (answer = resolve));
    return row;
  };

  const reading = watch.refresh();
  await until(() => answer, "a row on its way");
  world.commit("job.progress", { progress: { percentage: 70 } });
  world.reads.job = job;
  answer();
  await reading;

  const [row] = watch.state.jobs;
  assert.deepEqual([row.last_seq, row.progress.percentage], [2, 70]);
  watch.close();
});

test("a list says what it has and why it has no more, and what is no event changes nothing", async () => {
  const world = new World();
  const row = { id: "j1", job_type: "mail", last_seq: 1, status: "pending", finished_at: null };
  let read = async () => [row];
  const watch = new JobsWatch(world.topics, "t", () => read(), {});
  const loading = { jobs: [], isLoading: true, freshness: "catching-up", problem: null };
  assert.deepEqual([watch.state, watch.hasGap, watch.heardAll], [loading, false, true]);
  assert.equal(watch.isLive, true, "what was not read yet is not looked for more seldom");
  await watch.catchUp();
  const state = { ...loading, jobs: [row], isLoading: false };
  assert.deepEqual(watch.state, state);

  watch.receive({ type: "job.leased" });
  watch.receive({ job_id: "another", seq: 9, type: "job.progress", data: {} });
  assert.deepEqual([watch.state, watch.hasGap], [state, false]);
  assert.equal((await watch.refresh(), watch.state.isLoading), false);
  watch.receive({ job_id: "j1", seq: 2, type: "job.log", data: {} });
  assert.deepEqual(watch.state.jobs, [{ ...row, last_seq: 2, progress: undefined }]);

  const problem = new Error("away");
  read = () => Promise.reject(problem);
  await watch.refresh();
  assert.equal(watch.state.problem, problem);
});

test("a change is read until a read that began after it, and what no message said is not heard", async () => {
  const world = new World();
  world.commit("job.leased", { status: "processing", progress: { percentage: 1 } });
  const row = async () => [{ finished_at: null, ...(await world.reads.job()) }];
  let read = row;
  const watch = new JobsWatch(world.topics, "job:j1", () => read(), {});
  const hear = (seq, type, data = {}) => watch.receive({ job_id: "j1", seq, type, data });
  assert.equal(await watch.catchUp(), true);
  assert.deepEqual([await watch.catchUp(), watch.heardAll, watch.isLive], [false, true, true]);

  world.commit("job.progress", { progress: { percentage: 9 } });
  await watch.catchUp();
  hear(2, "job.progress", { progress: { percentage: 1 } });
  assert.equal(watch.state.jobs[0].progress.percentage, 9, "the later of both");
  hear(3, "job.log");
  assert.equal(watch.hasGap, false);
  hear(4, "job.retried");
  hear(5, "job.progress", { progress: { percentage: 2 } });
  assert.equal(watch.hasGap, true);
  world.job = { ...world.job, last_seq: 5, status: "pending" };
  read = async () => (hear(6, "job.leased"), row());
  await watch.catchUp();
  assert.deepEqual([watch.hasGap, watch.heardAll], [true, true]);

  read = row;
  for (const told of [() => hear(8, "job.completed"), () => watch.onSynced()]) {
    world.job = { ...world.job, status: `${world.job.status}!`, finished_at: "2026-11-20" };
    assert.equal(await watch.catchUp(), true);
    assert.deepEqual([watch.hasGap, watch.heardAll, watch.isLive], [false, false, false]);
    told();
    assert.equal(watch.heardAll, true);
    await watch.catchUp();
  }
});
