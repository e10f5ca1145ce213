// A workspace's watch against a socket that drops, repeats and is cut: each change is told once.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { WorkspaceWatch } from "../../../infra/console/lib/jobs/watch-workspace.js";
import { randomness, sleep, TERMS, until } from "./world.mjs";

const FAST = { pollingInterval: 15, silence: 40, firstSilence: 20, reorder: 10, joinTimeout: 30 };

/** A workspace's log of changes with a feed by position, and its topic. */
class Workspace {
  constructor({ random, drop = 0, repeat = 0 }) {
    Object.assign(this, {
      random,
      drop,
      repeat,
      log: [],
      listeners: new Set(),
      connected: false,
      reachable: true,
      resets: false,
    });
    this.reads = {
      feed: async (id, cursor, limit = 5) => {
        assert.equal(id, "w");
        if (!this.reachable) throw new Error("away");
        if (this.resets)
          return {
            events: [],
            cursor: String(this.log.length),
            more: false,
            reset: cursor !== null,
          };
        const from = cursor === null ? this.log.length : Number(cursor);
        const events = this.log.slice(from, from + limit);
        return {
          events,
          cursor: String(from + events.length),
          more: from + events.length < this.log.length,
        };
      },
    };
    this.topics = {
      join: (topic, listener) => (
        assert.equal(topic, "workspace:w"),
        this.listeners.add(listener),
        () => this.listeners.delete(listener)
      ),
      nudge: async () => {},
      reconnect: async () => (this.connect(false), this.connect(true)),
    };
  }

  connect(on) {
    this.connected = on;
    for (const listener of [...this.listeners])
      on ? listener.joined(TERMS, false) : listener.lost("cut");
  }

  commit(job) {
    const seq = this.log.filter((event) => event.job_id === job).length * 3 + 1; // holes, as on the topic
    const event = {
      job_id: job,
      seq,
      type: "job.leased",
      data: { status: "processing" },
      created_at: "2026-11-20T08:00:00Z",
    };
    this.log.push(event);
    if (!this.connected || this.random() < this.drop) return;
    for (let copies = this.random() < this.repeat ? 2 : 1; copies > 0; copies -= 1) {
      for (const listener of [...this.listeners]) listener.message(event);
    }
  }
}

/** The watches of a test. */
let open = [];
afterEach(() => {
  for (const watch of open) watch.close();
  open = [];
});

/** A watch of a workspace, and what it tells. */
function watching(space, options = {}) {
  const told = [];
  const resyncs = [];
  const watch = new WorkspaceWatch(space.reads, space.topics, "w", {
    ...FAST,
    onEvent: (event) => told.push(event),
    onResync: ({ first }) => void resyncs.push(first),
    ...options,
  });
  watch.start();
  open.push(watch);
  return { watch, told, resyncs };
}

/** The same of a workspace that is connected, once it is live. */
async function live(options, given) {
  const space = new Workspace({ random: randomness(1), ...given });
  const made = watching(space, options);
  space.connect(true);
  await until(() => made.watch.freshness === "live", "live");
  return { space, ...made };
}

const names = (events) => events.map(({ job_id, seq }) => `${job_id} ${seq}`).sort();

test("every change is told exactly once, whatever the socket does", async () => {
  for (let seed = 1; seed <= 15; seed += 1) {
    const random = randomness(seed);
    const space = new Workspace({ random, drop: 0.3, repeat: 0.3 });
    space.commit("before");
    const { watch, told, resyncs } = watching(space);
    await until(() => resyncs.length === 1, "the first read");
    if (random() < 0.8) space.connect(true);

    for (let step = 0; step < 30; step += 1) {
      space.commit(`j${Math.floor(random() * 5)}`);
      if (random() < 0.15) space.connect(!space.connected);
      if (random() < 0.1) space.reachable = !space.reachable;
      await sleep(random() * 4);
    }
    space.reachable = true;
    await until(() => told.length >= 30, `all of seed ${seed}`);
    await sleep(60);

    assert.deepEqual(names(told), names(space.log.slice(1)), `seed ${seed}`);
    assert.deepEqual(resyncs, [true]);
    watch.close();
  }
});

test("a stream of messages does not postpone the look for one that was lost", async () => {
  const { space, told } = await live({ silence: 60_000 }); // a read in silence comes too late
  const isTold = (id) => told.some((event) => event.job_id === id);
  space.drop = 1;
  space.commit("lost at once");
  space.drop = 0;

  const stream = setInterval(() => space.commit("streamed"), FAST.firstSilence / 4);
  await until(() => isTold("lost at once"), "the look after the join");
  space.drop = 1;
  space.commit("lost later");
  space.drop = 0;
  await until(() => isTold("lost later"), "the look after news");

  clearInterval(stream);
});

test("a message long after the read that overtook it is told no second time", async (t) => {
  const { space, watch, told } = await live({}, { drop: 1 });
  space.commit("read");
  await until(() => told.length === 1, "the read");
  const { now } = Date;
  t.mock.method(Date, "now", () => now.call(Date) + 31_000);
  await watch.refresh();

  for (const listener of [...space.listeners]) listener.message(space.log.at(-1));

  assert.deepEqual(names(told), ["read 1"]);
});

test("what could not be read at the start or after an absence is read again before it is live", async () => {
  const resyncs = [];
  const { space, watch } = await live({
    onResync: ({ first }) => {
      resyncs.push(first);
      if (resyncs.length % 2 === 1) throw new Error("away");
    },
  });
  assert.deepEqual(resyncs, [true, true]);

  space.connect(false);
  for (let count = 0; count < 60; count += 1) space.commit("unheard");
  space.connect(true);
  await until(() => resyncs.length > 2 && watch.freshness === "live", "live again");
  assert.deepEqual(resyncs, [true, true, false, false]);
});

test("a cursor of another database means reading anew, and going on from now", async () => {
  const space = new Workspace({ random: randomness(1) });
  const { watch, told, resyncs } = watching(space);
  await until(() => resyncs.length === 1, "the first read");
  space.resets = true;
  space.commit("lost");
  await watch.refresh();
  space.resets = false;
  space.commit("found");
  await until(() => told.length > 0, "the next change");

  assert.deepEqual(resyncs, [true, false]);
  assert.deepEqual(names(told), ["found 1"]);
});

for (const [what, isHeld] of [
  ["a message that a read overtook", false],
  ["a message that was held back", true],
])
  test(`${what} is no sign of a socket that brings none`, async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_800_000_000_000 });
    const leapUntil = async (holds) => {
      for (let left = 1000; !holds(); left -= 1) {
        assert.ok(left > 0, "never");
        t.mock.timers.tick(5);
        await new Promise(setImmediate);
      }
    };
    const space = new Workspace({ random: randomness(1), drop: 1 });
    const { watch, told } = watching(space);
    space.connect(true);
    await leapUntil(() => watch.freshness === "live");
    const send = (message) => [...space.listeners].forEach((listener) => listener.message(message));
    if (isHeld) send({ look_again: true });
    space.commit("late");
    await leapUntil(() => told.length === 1);

    if (isHeld) await leapUntil(() => watch.freshness === "live");
    else send(space.log[0]);
    const said = new Set();
    const end = Date.now() + 5 * FAST.silence;
    await leapUntil(() => said.add(watch.freshness) && Date.now() > end);

    assert.deepEqual([...said], ["live"]);
  });

test("a socket that brings no change is found out", async () => {
  const { space, watch, told } = await live({}, { drop: 1 });

  space.commit("read");
  await until(() => told.length === 1, "the change, by a read in silence");
  await until(() => watch.freshness === "polling", "distrust");
});

test("what is shown is read after the feed has begun, and waited for before the watch is live", async () => {
  const space = new Workspace({ random: randomness(1) });
  const steps = [];
  const said = [];
  const { feed } = space.reads;
  space.reads.feed = (...of) => (steps.push("feed"), feed(...of));
  let end = null;
  const { watch } = watching(space, {
    onResync: () => (steps.push("resync"), new Promise((done) => (end = done))),
    onChange: ({ freshness }) => said.push(freshness),
  });
  space.connect(true);
  await until(() => end, "the start");
  await sleep(20);
  assert.deepEqual([steps, watch.freshness], [["feed", "resync"], "catching-up"]);
  end();
  await until(() => said.at(-1) === "live", "live");

  space.reachable = false;
  await watch.refresh();
  assert.equal(watch.state.problem.message, "away");
});

test("only what no message brought is news of a read, and is asked of the socket", async () => {
  const rare = { silence: 60_000, firstSilence: 60_000, pollingInterval: 60_000 };
  const { space, watch } = await live(rare);
  space.commit("heard");
  assert.deepEqual([await watch.catchUp(), watch.heardAll], [false, true]);
  space.drop = 1;
  space.commit("lost");
  assert.deepEqual([await watch.catchUp(), watch.heardAll], [true, false]);
  watch.onSynced();
  assert.equal(watch.heardAll, true);
});

test("an absence of ten pages is told event by event, a longer one is a reason to read again", async () => {
  const space = new Workspace({ random: randomness(1) });
  const { watch, told, resyncs } = watching(space, { pollingInterval: 60_000 });
  await until(() => resyncs.length === 1, "the start");
  for (let count = 0; count < 50; count += 1) space.commit("unheard");
  assert.equal(await watch.catchUp(), true);
  assert.deepEqual([told.length, resyncs], [50, [true]]);

  for (let count = 0; count < 51; count += 1) space.commit("unheard");
  assert.equal(await watch.catchUp(), true);
  assert.deepEqual(resyncs, [true, false]);
  assert.equal(await watch.catchUp(), false, "from now on");
});

test("a workspace is never at an end, and what is no event is not told", async () => {
  const space = new Workspace({ random: randomness(1) });
  const { watch, told } = watching(space, { onResync: undefined });
  const { hasGap, isNumbered, heardAll, isLive } = watch;
  assert.deepEqual([hasGap, isNumbered, heardAll, isLive], [false, false, true, true]);
  assert.deepEqual(watch.state, { freshness: "catching-up", problem: null });
  await watch.refresh();
  watch.receive({});
  space.commit("told");
  space.log.unshift({});
  space.log[0].seq = 1;
  await watch.catchUp();
  assert.deepEqual(names(told), ["told 1"]);
});

test("what was told is known for half a minute at least, and forgotten after a whole one", async (t) => {
  const space = new Workspace({ random: randomness(1) });
  const { now } = Date;
  let later = 0;
  t.mock.method(Date, "now", () => now.call(Date) + later);
  const watch = new WorkspaceWatch(space.reads, space.topics, "w", {
    onEvent: ({ seq }) => told.push(seq),
  });
  const told = [];
  open.push(watch);
  await watch.catchUp();
  space.commit("told");
  for (const [wait, times] of [
    [0, 1],
    [29_000, 1],
    [2000, 1],
    [31_000, 2],
  ]) {
    later += wait;
    await watch.catchUp();
    watch.receive(space.log[0]);
    assert.equal(told.length, times, String(later));
  }
});
