// A watch against a server that drops, repeats, delays, cuts and goes away.

import assert from "node:assert/strict";
import { test } from "node:test";
import { JobWatch } from "../../../infra/console/lib/jobs/watch-job.js";
import { randomness, sleep, until, World } from "./world.mjs";

const FAST = { pollingInterval: 20, silence: 60, firstSilence: 25, reorder: 10, joinTimeout: 40 };

function watching(world, options = {}) {
  const told = [];
  const watch = new JobWatch({}, world.reads, world.topics, "j1", {
    ...FAST,
    history: true,
    onEvent: (event) => told.push(event),
    ...options,
  });
  watch.start();
  return { watch, told };
}

const seqs = (list) => list.map((event) => event.seq);

test("whatever the socket does, a watch tells exactly the events in the log, in order, none twice", async () => {
  for (let seed = 1; seed <= 25; seed += 1) {
    const random = randomness(seed);
    const world = new World({ random, drop: 0.3, repeat: 0.3, delay: 15 });
    world.commit("job.created", { status: "pending", attempts: 0 });
    const { watch, told } = watching(world);
    if (random() < 0.8) world.connect();
    const ended = watch.ended;

    world.commit("job.leased", { status: "processing", attempts: 1 });
    for (let step = 1; step <= 20; step += 1) {
      world.commit("job.progress", { progress: { percentage: step * 5 } });
      if (random() < 0.15) world.connected ? world.cut() : world.connect();
      if (random() < 0.1) world.reachable = !world.reachable;
      await sleep(random() * 4);
    }
    world.reachable = true;
    world.commit("job.completed", { status: "completed", attempts: 1 });
    const row = await ended;

    assert.equal(row.result.answer, 42, "the row is read again: results do not travel in events");
    assert.deepEqual(seqs(told), seqs(world.events), `seed ${seed}`);
    assert.deepEqual(seqs(watch.state.events), seqs(world.events));
    watch.close();
  }
});

test("live is said only after a read that began after the join", async () => {
  const world = new World();
  world.commit("job.created", { status: "pending" });
  const { watch } = watching(world);
  assert.equal(watch.freshness, "catching-up");

  world.connect();
  assert.equal(watch.freshness, "catching-up", "joined, but not read since");
  await until(() => watch.freshness === "live", "live");

  world.cut();
  assert.notEqual(watch.freshness, "live");
  await until(() => watch.freshness === "polling", "polling");
  world.reachable = false;
  await until(() => watch.freshness === "offline", "offline");
  world.reachable = true;
  await until(() => watch.freshness === "polling", "polling again");
  world.connect();
  await until(() => watch.freshness === "live", "live again");
  watch.close();
});

test("a gap is not live, and is read when the missing event does not come by itself", async () => {
  const world = new World();
  world.commit("job.created", { status: "pending" });
  const { watch, told } = watching(world);
  world.connect();
  await until(() => watch.freshness === "live", "live");

  world.drop = 1;
  world.commit("job.leased", { status: "processing", attempts: 1 });
  world.drop = 0;
  world.commit("job.progress", { progress: { percentage: 50 } });
  assert.equal(watch.freshness, "catching-up");
  await until(() => watch.freshness === "live", "live");

  assert.deepEqual(seqs(told), [1, 2, 3]);
  watch.close();
});

test("a socket that is joined but delivers nothing is found out, replaced and not trusted", async () => {
  const world = new World({ drop: 1 });
  world.commit("job.created", { status: "pending" });
  const { watch, told } = watching(world);
  world.connect();
  await until(() => watch.freshness === "live", "live");

  world.commit("job.leased", { status: "processing", attempts: 1 });
  await until(() => told.length === 2, "the event, by a read in silence");
  await until(() => world.reconnects === 1, "another socket");
  await until(() => watch.freshness === "live", "trust in the new socket, once");

  world.commit("job.progress", { progress: { percentage: 5 } });
  await until(() => world.reconnects === 2, "a third socket");
  await until(() => watch.freshness === "polling", "no trust any more");

  world.drop = 0;
  world.commit("job.progress", { progress: { percentage: 10 } });
  await until(() => watch.freshness === "live", "trust, once it delivers");
  watch.close();
});

for (const end of ["completed", "failed", "cancelled"]) {
  test(`a wait for the end settles when the job is ${end}`, async () => {
    const world = new World();
    world.commit("job.created", { status: "pending" });
    const { watch } = watching(world);
    world.connect();
    const ended = watch.ended;

    world.commit(`job.${end}`, { status: end });

    assert.equal((await ended).status, end);
    assert.equal(watch.state.isEnded, true);
    watch.close();
  });
}

test("a wait for the end of a deleted job, or of one no longer watched, is refused", async () => {
  const world = new World();
  world.commit("job.created", { status: "pending" });
  const { watch } = watching(world);
  await until(() => watch.state.job, "the row");
  const ended = watch.ended;
  world.job = null;
  await assert.rejects(ended, { name: "JobGone" });
  assert.equal(watch.state.missing, true);
  watch.close();

  const other = watching(new World());
  const never = other.watch.ended;
  other.watch.close();
  await assert.rejects(never, /closed/);
});

test("without history only what happens from now on is told, over the present row", async () => {
  const world = new World();
  for (const percentage of [10, 20, 30])
    world.commit("job.progress", { status: "processing", progress: { percentage } });
  const { watch, told } = watching(world, { history: false });
  world.connect();
  await until(() => watch.freshness === "live", "live");
  assert.deepEqual([watch.state.progress.percentage, told], [30, []]);

  world.commit("job.progress", { progress: { percentage: 40 } });
  await until(() => told.length === 1, "the new one");

  assert.equal(watch.state.progress.percentage, 40);
  watch.close();
});

test("a quiet job with a past is not asked of a socket that was not there", async () => {
  const world = new World();
  for (let step = 1; step <= 5; step += 1) world.commit("job.progress", { status: "processing" });
  const { watch } = watching(world);
  world.connect();
  await until(() => watch.freshness === "live", "live");

  await sleep(250);

  assert.deepEqual([watch.freshness, world.reconnects], ["live", 0]);
  watch.close();
});

test("a row read ahead of its events is not live until they are told", async () => {
  const world = new World();
  world.commit("job.created", { status: "pending" });
  const { watch, told } = watching(world);
  world.connect();
  await until(() => watch.freshness === "live", "live");
  const { events } = world.reads;
  world.reads.events = async (...of) => (await sleep(60), events(...of));
  world.drop = 1;
  world.commit("job.completed", { status: "completed" });

  const reading = watch.refresh();
  await until(() => watch.state.isEnded, "the row");
  assert.deepEqual([watch.freshness, told.length], ["catching-up", 1]);
  await reading;

  assert.deepEqual([watch.freshness, told.length], ["live", 2]);
  watch.close();
});

test("a history whose beginning retention took is told from where it begins", async () => {
  const world = new World();
  for (let step = 1; step <= 600; step += 1) world.commit("job.progress", { status: "processing" });
  world.events.splice(0, 40);
  const { watch, told } = watching(world);
  world.connect();

  await until(() => watch.freshness === "live", "live");

  assert.deepEqual(seqs(told), seqs(world.events));
  watch.close();
});

test("a quiet, ended job costs no reads", async () => {
  const world = new World();
  world.commit("job.completed", { status: "completed" });
  const { watch } = watching(world);
  world.connect();
  await until(() => watch.freshness === "live", "live");
  const before = world.readCount;

  await sleep(200);

  assert.equal(world.readCount, before);
  watch.close();
});
