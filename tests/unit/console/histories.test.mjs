// A watch under random histories, in time that leaps: snapshots, gaps, holds, cuts and refusals.

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";
import { JobWatch } from "../../../infra/console/lib/jobs/watch-job.js";
import { leap, leapUntil, randomness, sleep, World } from "./world.mjs";

const STEP = 10;

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_800_000_000_000 });
});

/** A world whose reads take time or are refused, and whose server may hold messages back. */
class Restless extends World {
  constructor(options) {
    super(options);
    Object.assign(this, { slow: 0, refuses: false });
    const { job, events } = this.reads;
    this.reads.job = (...of) => this.#answer(job, of);
    this.reads.events = (...of) => this.#answer(events, of);
  }

  async #answer(read, of) {
    if (this.refuses) throw Object.assign(new Error("no"), { reachable: true, status: 403 });
    const answer = await read(...of);
    if (this.slow > 0) await sleep(this.random() * this.slow);
    return answer;
  }

  say(message) {
    if (this.connected) for (const listener of [...this.listeners]) listener.message(message);
  }
}

function watching(world, history = true) {
  const events = [];
  const options = { history, onEvent: (event) => events.push(event) };
  const watch = new JobWatch({}, world.reads, world.topics, "j1", options);
  watch.start();
  return { watch, events };
}

async function live(world) {
  world.commit("job.created", { status: "pending" });
  const made = watching(world);
  world.connect();
  await leapUntil(() => made.watch.freshness === "live", "live");
  return made;
}

const MOVES = {
  commit: (world) =>
    world.commit("job.progress", { progress: { percentage: world.events.length } }),
  lose: (world) => void (world.drop = 0.7),
  bring: (world) => void (world.drop = 0),
  cut: (world) => world.cut(),
  connect: (world) => world.connect({ isDeaf: world.random() < 0.2 }),
  leave: (world) => void (world.reachable = false),
  refuse: (world) => void (world.refuses = true),
  answer: (world) => Object.assign(world, { reachable: true, refuses: false }),
  rest: (world) => void (world.slow = world.random() * 900),
  hurry: (world) => void (world.slow = 0),
  hold: (world) => void ((world.drop = 1), world.say({ look_again: true })),
};

for (let seed = 1; seed <= 100; seed += 1)
  test(`no history breaks a rule of a watch: ${seed}`, async () => {
    const random = randomness(seed);
    const world = new Restless({ random, repeat: 0.2, delay: random() < 0.5 ? 150 : 0 });
    const { watch, events } = await live(world);
    let known = 0;
    for (let step = 0; step < 40; step += 1) {
      const moves = Object.keys(MOVES);
      const move = random() < 0.4 ? "commit" : moves[Math.floor(random() * moves.length)];
      MOVES[move](world);
      if (move === "hold" || move === "cut") assert.notEqual(watch.freshness, "live", move);
      await leap(random() * 600);
      assert.deepEqual(
        events.map(({ seq }) => seq),
        events.map((_, index) => index + 1),
        "events are handed out in order, none twice, none missing",
      );
      assert.ok(watch.state.job.last_seq >= known, "a row never goes back");
      known = watch.state.job.last_seq;
    }
    Object.assign(world, { reachable: true, refuses: false, drop: 0, slow: 0 });
    world.connect();
    world.commit("job.completed", { status: "completed" });
    let ended = null;
    watch.ended.then((row) => (ended = row));
    await leapUntil(() => ended && watch.freshness === "live", "the end", 300_000);

    assert.equal(events.length, world.events.length);
    assert.deepEqual(watch.state.events, events);
    assert.equal(ended.result.answer, 42, "results do not travel in events: the row is read again");
    watch.close();
  });

test("what was live is not after a read was refused: it may be hidden for good", async () => {
  const world = new Restless();
  const { watch } = await live(world);
  world.refuses = true;

  await Promise.all([watch.refresh(), leap(STEP)]);

  assert.equal(watch.freshness, "catching-up");
  assert.equal(watch.error.status, 403);
  watch.close();
});

test("a read that was under way at the join does not make a watch live", async () => {
  const world = new Restless({ random: () => 0.999 });
  world.commit("job.created", { status: "pending" });
  world.slow = 500; // the row, then its events
  const { watch } = watching(world);
  await leap(100);
  world.connect();
  await leap(1400);
  assert.equal(watch.state.status, "pending", "the first read has ended");
  assert.equal(watch.freshness, "catching-up", "what came between it and the join is not known");

  await leapUntil(() => watch.freshness === "live", "live", 10_000);
  watch.close();
});

test("a topic that publishes little is not taken for a dead socket", async () => {
  const world = new Restless();
  world.commit("job.created", { status: "pending" });
  const { watch } = watching(world);
  world.connect();
  // truthy for a server that says whether, an object for one that says how
  for (const listener of world.listeners) listener.joined({ quiet: true, checkMs: 0 }, false);
  await leapUntil(() => watch.freshness === "live", "live");

  world.drop = 1;
  world.commit("job.progress", { progress: { percentage: 5 } });
  await leapUntil(() => watch.state.progress?.percentage === 5, "a read in silence");
  await leap(5000);

  assert.deepEqual([world.reconnects, watch.freshness], [0, "live"]);

  await leap(600_000);
  const before = world.readCount;
  world.say({ job_id: "j1", seq: 1, type: "job.created" });
  await leap(10_000);
  assert.equal(world.readCount, before, "a message proves no more than silence");
  watch.close();
});

test("a hold lasts until a read that began well after its notice found nothing more", async () => {
  const world = new Restless();
  const { watch } = await live(world);
  world.slow = 300; // the row, then its events
  watch.refresh(); // on its way when the notice comes
  world.say({ look_again: true });
  await leap(700);

  assert.equal(watch.freshness, "catching-up", "that read knows nothing of what is held back");
  await leapUntil(() => watch.freshness === "live", "live", 10_000);
  watch.close();
});

test("what a socket missed is not held against the next one", async () => {
  const world = new Restless({ random: () => 0.999 });
  const { watch } = await live(world);
  world.drop = 1;
  world.commit("job.progress", { progress: { percentage: 5 } });
  await leapUntil(() => watch.state.progress?.percentage === 5, "a read in silence");

  world.cut();
  world.slow = 4000;
  world.connect();
  await leap(2000);

  assert.equal(watch.freshness, "catching-up");
  watch.close();
});

test("an event that comes before the first row is handed out with it", async () => {
  const world = new Restless({ random: () => 0.999 });
  world.commit("job.created", { status: "pending" });
  world.reachable = false;
  const { watch, events } = watching(world, false);
  world.connect();
  await leap(STEP);
  Object.assign(world, { reachable: true, slow: 400 });
  watch.refresh();
  await leap(STEP);
  world.commit("job.progress", { progress: { percentage: 5 } }); // the row is on its way
  world.say({ job_id: "j2", seq: 3, type: "job.completed", data: { status: "completed" } });
  await leap(900);

  assert.deepEqual([events.length, watch.state.status, world.readCount], [1, "pending", 3]);
  watch.close();
});

test("an older row does not replace a newer one, whichever answer comes last", async () => {
  const world = new Restless();
  const { watch } = await live(world);
  world.reads.job = (
    (old) => async () =>
      old
  )(await world.reads.job());
  world.commit("job.leased", { status: "processing", attempts: 1 });
  await leapUntil(() => watch.state.status === "processing", "the event");

  await Promise.all([watch.refresh(), leap(STEP)]);

  assert.equal(watch.state.status, "processing");
  watch.close();
});

test("while nothing answers, a watch asks less and less", async () => {
  const world = new Restless();
  const { watch } = await live(world);
  Object.assign(world, { reachable: false }).cut();
  await leap(5000);
  const before = world.readCount;
  await leap(60_000);

  const asked = world.readCount - before;
  assert.ok(asked > 0 && asked <= 6, `${asked} reads in a minute`);
  watch.close();
});

test("a page that slept gets a fresh token and a live socket", async (t) => {
  const world = new Restless();
  const { watch } = await live(world);
  const { now } = Date;
  t.mock.method(Date, "now", () => now.call(Date) + 60_000); // timers of a machine asleep stand still
  await leap(5000);

  assert.ok(world.nudges > 0);
  watch.close();
});

test("a gap is read after a tenth of a second, however far away the next check is", async () => {
  const world = new Restless();
  const { watch, events } = await live(world);
  for (const reachable of [false, true]) {
    world.reachable = reachable; // an outage that is over changes nothing
    await Promise.all([watch.refresh(), leap(STEP)]);
    assert.equal(watch.state.problem === null, reachable);
  }
  await leap(60_000, 100);

  world.drop = 1;
  world.commit("job.progress", { progress: { percentage: 5 } });
  world.drop = 0;
  world.commit("job.progress", { progress: { percentage: 6 } });
  const before = world.readCount;
  await leap(80);
  assert.equal(world.readCount, before, "it may still come by itself");
  world.commit("job.progress", { progress: { percentage: 7 } });
  await leap(50);

  assert.equal(events.length, 4, "a message more does not postpone it");
  const after = world.readCount;
  await leap(1000);
  assert.equal(world.readCount, after, "once");
  watch.close();
});

test("a topic that cannot be joined is polled, of an ended job less often", async (t) => {
  t.mock.method(Math, "random", () => 0.5);
  const world = new Restless();
  const { watch } = await live(world);
  world.cut();
  const readsIn = async (ms) => {
    const from = world.readCount;
    await leap(ms, 100);
    return world.readCount - from;
  };
  await leap(100);
  assert.equal(watch.freshness, "polling");
  const before = world.readCount;
  world.cut();
  await leap(100);
  assert.equal(world.readCount, before, "what is lost already is not read for again");
  const running = await readsIn(30_500);
  world.commit("job.completed", { status: "completed" });
  await leap(4000);
  const ended = await readsIn(30_500);

  assert.deepEqual([running, ended], [10, 2]);
  watch.close();
});

test("a socket is not trusted for what the one before it brought", async () => {
  const world = new Restless();
  const { watch } = await live(world);
  world.commit("job.progress", { progress: { percentage: 5 } });
  world.cut();
  world.connect();
  await leapUntil(() => watch.freshness === "live", "live");

  world.drop = 1;
  world.commit("job.progress", { progress: { percentage: 6 } });
  await leapUntil(() => watch.freshness === "polling", "distrust", 10_000);
  watch.close();
});

test("a stream of messages costs the checks that are due, and no more", async () => {
  const world = new Restless();
  const { watch } = await live(world);
  const before = world.readCount;
  for (let count = 0; count < 100; count += 1) {
    world.commit("job.progress", { progress: { percentage: count } });
    await leap(50);
  }
  await leap(3000);

  const reads = world.readCount - before;
  assert.ok(reads >= 1 && reads <= 4, `${reads} reads in eight seconds`);

  world.say({ job_id: "j1", seq: 1, type: "job.created" });
  await leap(5000);
  assert.equal(watch.freshness, "live", "a repeated message says nothing of the last ones");
  watch.close();
});

test("changes that come together cost one read of the row", async () => {
  const world = new Restless();
  const { watch } = await live(world);
  const before = world.readCount;
  for (let count = 0; count < 5; count += 1) {
    world.commit("job.snoozed", { status: "pending" });
    await leap(10);
  }
  await leap(200);

  assert.equal(world.readCount, before + 1);
  watch.close();
});
