// When a follower reads, what it says of itself, and what it asks of its socket, to the millisecond.

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";
import { Follower } from "../../../infra/console/lib/jobs/follower.js";
import { leap, leapUntil, sleep, TERMS } from "./world.mjs";

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_800_000_000_000 });
  mock.method(Math, "random", () => 0.5); // no jitter
});

/** A follower of nothing: what it would find, miss and hear is set from outside. */
class Bare extends Follower {
  begins = Date.now();
  reads = [];
  calls = [];
  received = [];
  said = [];
  isMissing = false;
  heals = false; // a read finds what was missing
  isHeard = true;
  isCounted = false;
  news = false;
  slow = 0;
  refusal = null;

  constructor(options) {
    super(
      {
        join: (topic, listener, schema) => {
          this.calls.push(["join", topic, schema]);
          this.socket = listener;
          return () => this.calls.push("leave");
        },
        nudge: async () => void this.calls.push("nudge"),
        reconnect: async () => {
          this.calls.push("reconnect");
          this.socket.lost("silent");
        },
      },
      "t",
      options,
    );
    this.subscribe(() => this.said.push(this.freshness));
  }

  get hasGap() {
    return this.isMissing;
  }
  get heardAll() {
    return this.isHeard;
  }
  get isNumbered() {
    return this.isCounted;
  }
  onClose() {
    this.calls.push("closed");
  }
  receive(payload) {
    this.received.push(payload);
  }
  async catchUp() {
    this.reads.push(Date.now() - this.begins);
    if (this.slow) await sleep(this.slow);
    if (this.heals) this.isMissing = false;
    if (this.refusal) throw this.refusal;
    return this.news;
  }

  /** The reads of the next so many ms, by when they began. */
  async readsIn(ms, step) {
    const from = this.reads.length;
    this.begins = Date.now();
    await leap(ms, step);
    return this.reads.slice(from);
  }

  reconnects() {
    return this.calls.filter((name) => name === "reconnect").length;
  }
}

/** A follower, once it is live. */
async function live(options, terms = TERMS) {
  const watch = new Bare(options);
  watch.start();
  await leap(10);
  watch.socket.joined(terms, false);
  await leap(10);
  assert.equal(watch.freshness, "live");
  await leap(10); // it is said
  return watch;
}

const AWAY = Object.assign(new Error("away"), { reachable: false });

test("a watch is about to join for five seconds, and nothing is polled before the first answer", async () => {
  const watch = new Bare({ schema: "mine" });
  watch.slow = 6000;
  watch.start();
  assert.deepEqual(watch.calls, [["join", "t", "mine"]]);
  await leap(5500);
  assert.equal(watch.freshness, "catching-up", "nothing was read yet");
  await leap(600);
  assert.equal(watch.freshness, "polling");

  const other = new Bare();
  other.start();
  await leap(4990);
  assert.equal(other.freshness, "catching-up");
  await leap(20);
  assert.equal(other.freshness, "polling");
});

test("what is lost is read for at once, whether or not it was ever joined", async () => {
  const watch = new Bare();
  watch.start();
  await leap(100);
  for (const reason of ["refused", "cut", "cut"]) {
    const before = watch.reads.length;
    watch.socket.lost(reason);
    assert.equal(watch.reads.length, before + 1);
    await leap(100);
    watch.socket.joined(TERMS, false);
    await leap(100);
  }
});

test("every change is said, once a frame, also while a read hangs", async () => {
  const watch = await live();
  watch.slow = 1e6;
  const changes = {
    lost: () => (watch.socket.lost("cut"), watch.notify()),
    "a deaf join": () => watch.socket.joined(TERMS, true),
    "a message": () => watch.socket.message({}),
    "another message": () => watch.socket.message({}),
    "a message that says to look": () => watch.socket.message({ look_again: true }),
  };
  for (const [what, change] of Object.entries(changes)) {
    watch.said = [];
    change();
    await leap(10);
    assert.equal(watch.said.length, 1, what);
  }
});

test("each answer and each refusal is said, and an error is forgotten with the next answer", async () => {
  const watch = await live();
  for (const [refusal, said] of [
    [AWAY, "offline"],
    [null, "live"],
  ]) {
    Object.assign(watch, { refusal, said: [] });
    watch.refresh();
    await leap(20);
    assert.deepEqual([watch.said, watch.error], [[said], refusal]);
  }
});

test("a watch that was closed says nothing, asks nothing and hears nothing more", async () => {
  const watch = await live();
  watch.said = [];
  watch.slow = 100;
  watch.refresh();
  watch.notify();
  watch.close();
  watch.close();
  await leap(200);
  const timers = mock.method(globalThis, "setTimeout").mock;
  watch.notify();
  watch.socket.message({});
  watch.wake();
  watch.refresh();
  await leap(60_000, 100);

  assert.deepEqual(watch.calls, [["join", "t", undefined], "leave", "closed"]);
  assert.deepEqual([watch.reads.length, watch.received, watch.said], [3, [], []]);
  assert.equal(timers.callCount(), 0);
});

test("a check follows each sign of life soon, and silence ever later", async () => {
  const watch = await live();
  assert.deepEqual(await watch.readsIn(3100), [1490, 2990], "a join");

  await leap(1_200_000, 100);
  watch.socket.message({});
  assert.deepEqual(await watch.readsIn(1510), [1500], "a message");

  await leap(1_200_000, 100);
  watch.news = true;
  await watch.refresh();
  watch.news = false;
  assert.deepEqual(await watch.readsIn(1510), [1500], "what a read found");

  const busy = await live({}, { quiet: false, checkMs: 10_000 });
  assert.deepEqual(await busy.readsIn(20_000), [9990, 19_990], "as the project's followers allow");
});

for (const isCounted of [false, true])
  test(`messages postpone no check ${isCounted ? "before the first" : "that shows no hole"}`, async () => {
    const watch = await live();
    Object.assign(watch, { isCounted, heals: true });
    await leap(2000); // a check, of which the next socket says nothing
    if (isCounted) {
      watch.socket.lost("cut");
      watch.socket.joined(TERMS, false);
      await leap(10);
      watch.isMissing = true; // to read for it is none
    }
    watch.socket.message({});
    await leap(200);
    const before = watch.reads.length;
    for (let count = 0; count < 16; count += 1) {
      watch.socket.message({});
      await leap(100);
    }
    assert.ok(watch.reads.length > before);
  });

test("a hole is read for a tenth of a second after it was seen, until it is closed, and no longer", async () => {
  const watch = await live();
  watch.isMissing = true;
  watch.socket.message({});
  await leap(60);
  watch.socket.message({});
  assert.deepEqual(await watch.readsIn(300), [40, 140, 240], "a second message postpones nothing");

  watch.isMissing = false;
  assert.deepEqual(await watch.readsIn(1000), [40]);
  assert.equal(watch.freshness, "live");
});

test("a timer that ends during a read asks for no other", async () => {
  const watch = await live();
  watch.slow = 500;
  watch.refresh();
  watch.isMissing = true;
  watch.socket.message({});
  await leap(200);
  watch.isMissing = false;

  assert.deepEqual(await watch.readsIn(1000), []);
});

test("a joined watch whose reads fail polls ever less, half a minute apart at most", async () => {
  const watch = await live();
  watch.refusal = AWAY;
  watch.refresh();
  assert.deepEqual(await watch.readsIn(13_000), [4810, 12_490]);
  await leap(120_000, 100);
  const [first, second] = await watch.readsIn(60_000);
  assert.equal(second - first, 30_000);

  watch.refusal = null;
  await watch.refresh();
  assert.equal(watch.freshness, "live");
  await leap(20);
  assert.equal((await watch.readsIn(10_000)).length, 1, "it is polled no more");
});

test("followers do not poll in step", async () => {
  mock.method(Math, "random", () => 1);
  const watch = new Bare({ pollingInterval: undefined });
  watch.start();
  await leap(10);

  assert.deepEqual(await watch.readsIn(3500), [3450]);
});

test("a deaf join is read as often as an option says, a slow server a fifth of the time", async () => {
  const watch = new Bare({ firstSilence: 500 });
  watch.start();
  await leap(10);
  watch.socket.joined(TERMS, true);
  assert.deepEqual(await watch.readsIn(1600), [500, 1000, 1500]);

  watch.slow = 1000;
  watch.refresh();
  await leap(1010);
  assert.deepEqual(await watch.readsIn(12_000), [4990, 10_990]);
});

test("what is held back is read for until a read finds nothing more", async () => {
  const watch = await live();
  watch.socket.message({ look_again: true });
  watch.news = true;
  assert.deepEqual(await watch.readsIn(3300), [150, 1650, 3150]);
  assert.equal(watch.freshness, "catching-up");

  watch.news = false;
  await leap(1500);
  assert.equal(watch.freshness, "live");
});

const excused = {
  "a refused read": async (watch) => {
    watch.refusal = AWAY;
    watch.refresh();
    await leap(10);
    watch.refusal = null;
    return 5000;
  },
  "a read of what is held back": async (watch) => {
    watch.socket.message({ look_again: true });
    return 300;
  },
  "a read of a hole": async (watch) => {
    Object.assign(watch, { isMissing: true, heals: true });
    watch.socket.message({});
    return 110;
  },
};
for (const [what, make] of Object.entries(excused))
  test(`${what} is no check of the socket`, async () => {
    const watch = await live();
    await leap(70_000, 100); // what it brought is long ago
    const wait = await make(watch);
    watch.isHeard = false; // until the next check
    await leap(wait);
    await leap(1510);

    assert.equal(watch.freshness, "live");
  });

test("what a check found may come late, and a cut or closed socket is not judged", async () => {
  const late = await live();
  late.isHeard = false;
  await leap(1500 + 1400);
  late.isHeard = true;
  await leap(5000);
  assert.deepEqual([late.freshness, late.reconnects()], ["live", 0]);

  const ends = { cut: (watch) => watch.socket.lost("cut"), closed: (watch) => watch.close() };
  for (const [what, end] of Object.entries(ends)) {
    const watch = await live();
    watch.isHeard = false;
    await leap(1600);
    end(watch);
    await leap(20_000, 100);
    assert.equal(watch.reconnects(), 0, what);
  }
});

test("a silent socket is replaced and the next one trusted, once; then it is polled beside it", async () => {
  const watch = await live();
  await leap(1_200_000, 100);
  /** Whether the next socket is trusted, after this one brought nothing. */
  const replace = async () => {
    const before = watch.reconnects();
    watch.isHeard = false;
    await leapUntil(() => watch.freshness === "polling", "doubt");
    await leap(10);
    assert.equal(watch.said.at(-1), "polling");
    await leapUntil(() => watch.reconnects() > before, "another socket");
    watch.isHeard = true;
    watch.socket.joined(TERMS, false);
    await leap(10);
    return watch.freshness;
  };
  assert.equal(await replace(), "live");
  watch.socket.message({});
  await leap(70_000, 100);
  assert.equal(await replace(), "live", "what it brought counts for the next one");
  assert.equal(await replace(), "polling");

  watch.isHeard = false;
  const reads = await watch.readsIn(10_000, 100);
  assert.equal(reads[2] - reads[1], 3000);
  assert.equal(watch.reconnects(), 3);
});

test("what was dropped is read for over a minute, and held against the socket no longer", async () => {
  const watch = await live();
  watch.onSynced = () => void (watch.isHeard = true);
  watch.socket.message({});
  watch.isHeard = false;
  await leap(3100);
  assert.equal(watch.freshness, "catching-up");
  await leap(60_000, 100);
  assert.equal(watch.freshness, "live");
  await leap(60_000, 100);

  assert.deepEqual([watch.freshness, watch.reconnects()], ["live", 0]);
});

test("a page that comes back asks for a token and reads; a hidden or offline one is told as well", async () => {
  const happens = {};
  const page = {
    addEventListener: (name, run) => (happens[name] = run),
    document: { visibilityState: "hidden", addEventListener() {} },
    navigator: { onLine: true },
    requestAnimationFrame() {}, // a hidden page gets no frames
  };
  for (const [name, value] of Object.entries(page))
    Object.defineProperty(globalThis, name, { value });
  const watch = await live();
  await leap(300);
  assert.equal(watch.said.at(-1), "live");

  happens.focus();
  const before = [...watch.calls];
  assert.equal(before.at(-1), "nudge");
  assert.equal(watch.reads.length, 3);
  page.navigator.onLine = false;
  happens.offline();
  await leap(300);
  assert.deepEqual([watch.said.at(-1), watch.reads.length], ["offline", 3]);
  assert.deepEqual(watch.calls, before);

  page.navigator.onLine = true;
  watch.close();
  watch.wake = () => assert.fail("it is forgotten");
  happens.focus();
});
