// A workspace's watch against a socket that drops, repeats and is cut: each change is told once.

import assert from "node:assert/strict";
import { test } from "node:test";
import { WorkspaceWatch } from "../../../infra/console/lib/jobs/watch-workspace.js";
import { randomness, sleep, until } from "./world.mjs";

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
      feed: async (_id, cursor, limit = 5) => {
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
      join: (_topic, listener) => (
        this.listeners.add(listener),
        () => this.listeners.delete(listener)
      ),
      nudge: async () => {},
      reconnect: async () => (this.connect(false), this.connect(true)),
    };
  }

  connect(on) {
    this.connected = on;
    for (const listener of [...this.listeners]) on ? listener.joined() : listener.lost("cut");
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

const names = (events) => events.map(({ job_id, seq }) => `${job_id} ${seq}`).sort();

test("every change is told exactly once, whatever the socket does", async () => {
  for (let seed = 1; seed <= 15; seed += 1) {
    const random = randomness(seed);
    const space = new Workspace({ random, drop: 0.3, repeat: 0.3 });
    space.commit("before");
    const told = [];
    let resyncs = 0;
    const watch = new WorkspaceWatch(space.reads, space.topics, "w", {
      ...FAST,
      onEvent: (event) => told.push(event),
      onResync: () => void (resyncs += 1),
    });
    watch.start();
    await until(() => resyncs === 1, "the first read");
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
    assert.equal(resyncs, 1);
    watch.close();
  }
});

test("a cursor of another database means reading anew, and going on from now", async () => {
  const space = new Workspace({ random: randomness(1) });
  const told = [];
  const resyncs = [];
  const watch = new WorkspaceWatch(space.reads, space.topics, "w", {
    ...FAST,
    onEvent: (event) => told.push(event),
    onResync: ({ first }) => void resyncs.push(first),
  });
  watch.start();
  await until(() => resyncs.length === 1, "the first read");
  space.resets = true;
  space.commit("lost");
  await watch.refresh();
  space.resets = false;
  space.commit("found");
  await until(() => told.length > 0, "the next change");

  assert.deepEqual(resyncs, [true, false]);
  assert.deepEqual(
    told.map((event) => event.job_id),
    ["found"],
  );
  watch.close();
});
