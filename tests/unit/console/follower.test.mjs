// When a follower reads, what it says of itself, and what it asks of its socket, to the millisecond.

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";
import {
  checkPause,
  DEFAULTS,
  Follower,
  FRESHNESS,
  later,
} from "../../../infra/console/lib/jobs/follower.js";
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
  synced = 0;
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
  onSynced() {
    this.synced += 1;
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
  await leap(10);
  assert.equal(other.freshness, "polling");

  const refused = new Bare();
  refused.start();
  await leap(100);
  refused.socket.lost("refused");
  assert.equal(refused.freshness, "polling", "it is about to join no more");
});

test("a follower of nothing misses nothing, and its words and patience are those of the README", () => {
  const { hasGap, isNumbered, heardAll, isLive, closed } = new Follower({}, "t");
  assert.deepEqual(
    [hasGap, isNumbered, heardAll, isLive, closed],
    [false, false, true, true, false],
  );

  assert.deepEqual(FRESHNESS, ["live", "catching-up", "polling", "offline"]);
  const patience = { readyTimeout: 65_000, reorder: 100, joinTimeout: 5000 };
  const reads = { pollingInterval: 3000, silence: 30_000, firstSilence: 1500 };
  assert.deepEqual(DEFAULTS, { ...reads, ...patience });
});

for (const [idle, took, advised, pause] of [
  [0, 0, 0, 1500],
  [100_000, 0, 0, 5000],
  [100_000, 0, 9000, 9000],
  [1e9, 0, 0, 30_000],
  [0, 0, 1e9, 30_000],
  [0, 8000, 0, 40_000],
])
  test(`a check is due in time: ${[idle, took, advised]}`, () => {
    assert.equal(checkPause(idle, took, advised, DEFAULTS), pause);
  });

test("a watch is live after a read that began since its join, and asks the socket from there", async () => {
  const watch = new Bare();
  Object.assign(watch, { slow: 100, news: true });
  watch.start();
  await leap(50);
  watch.socket.joined(TERMS, false);
  await leap(70);
  assert.deepEqual([watch.freshness, watch.synced], ["catching-up", 0], "it began before");
  await leap(100);
  assert.deepEqual([watch.freshness, watch.synced], ["live", 1]);
  watch.refresh();
  await leap(110);
  assert.equal(watch.synced, 1);

  watch.socket.joined(TERMS, false);
  assert.equal(watch.freshness, "catching-up", "another socket");
});

test("a read that is asked for during another follows it, and is waited for", async () => {
  const watch = await live();
  watch.slow = 100;
  let ended = 0;
  const count = watch.reads.length;
  for (let time = 0; time < 3; time += 1) watch.refresh().then(() => (ended += 1));
  await leap(90);
  assert.deepEqual([watch.reads.length - count, ended], [1, 0]);
  watch.refresh().then(() => (ended += 1));
  await leap(100);
  assert.deepEqual([watch.reads.length - count, ended], [2, 0]);
  await leap(100);
  assert.deepEqual([watch.reads.length - count, ended], [2, 4]);
});

test("what is refused may be old for good, what was not answered is not; an error may be nothing", async () => {
  const watch = await live();
  watch.refusal = Object.assign(new Error("no"), { reachable: true });
  await watch.refresh();
  assert.deepEqual([watch.freshness, watch.error.message], ["catching-up", "no"]);
  for (const [refusal, freshness, synced] of [
    [AWAY, "offline", 2],
    [null, "live", 3],
    [AWAY, "offline", 3],
    [null, "live", 3],
  ]) {
    watch.refusal = refusal;
    await watch.refresh();
    assert.deepEqual([watch.freshness, watch.synced], [freshness, synced]);
  }

  watch.catchUp = () => Promise.reject();
  await watch.refresh();
  assert.equal(watch.freshness, "offline");
});

test("a message is passed on as it came, but for one that says to look", async () => {
  const watch = await live();
  const messages = [{ seq: 1 }, null, { look_again: "no" }];
  for (const message of [...messages, { look_again: true }]) watch.socket.message(message);

  assert.deepEqual(watch.received, messages);
});

test("a message ends a deaf join, and time does as well", async () => {
  const deaf = async () => {
    const watch = new Bare();
    watch.start();
    watch.socket.joined(TERMS, true);
    await leap(50);
    assert.equal(watch.freshness, "catching-up");
    return watch;
  };
  const told = await deaf();
  told.socket.message({});
  await leap(10);
  assert.equal(told.freshness, "live");

  const untold = await deaf();
  await leap(64_800, 100);
  assert.equal(untold.freshness, "catching-up");
  await leap(200, 100);
  assert.equal(untold.freshness, "live");
});

test("a listener that leaves is told no more, one that comes meanwhile the next time", async () => {
  const watch = await live();
  const told = [];
  const leave = watch.subscribe(() => told.push("first"));
  const late = watch.subscribe(() => watch.subscribe(() => told.push("late")));
  watch.notify();
  await leap(10);
  assert.deepEqual(told, ["first"]);
  leave();
  late();
  watch.notify();
  await leap(10);
  assert.deepEqual(told, ["first", "late"]);
});

test("a computer that slept gets a fresh token with the read that is overdue", async (t) => {
  const { now } = Date;
  for (const [slept, nudges] of [
    [14_990, 0],
    [15_010, 1],
  ]) {
    const watch = await live();
    const clock = t.mock.method(Date, "now", () => now.call(Date) + slept);
    await leap(1600);
    clock.mock.restore();
    assert.equal(watch.calls.filter((name) => name === "nudge").length, nudges, String(slept));
    assert.equal(watch.reads.length, 3);
    watch.close();
  }
});

test("timers keep no script in Node alive, and are numbers in browsers", (t) => {
  mock.timers.reset();
  const timer = later(() => {}, 1e6);
  assert.equal(timer.hasRef(), false);
  clearTimeout(timer);

  t.mock.method(globalThis, "setTimeout", () => 7);
  assert.equal(
    later(() => {}, 1),
    7,
  );
});

test("an error of a listener is the page's to see, and the others are told", async (t) => {
  const watch = await live();
  const tasks = [];
  let told = 0;
  watch.subscribe(() => assert.fail("drawing"));
  watch.subscribe(() => (told += 1));
  t.mock.method(globalThis, "queueMicrotask", (run) => tasks.push(run));
  watch.notify();
  await leap(10);

  assert.equal(told, 1);
  assert.throws(tasks[0], /drawing/);
});

test("what is lost is read for at once, whether or not it was ever joined", async () => {
  const watch = new Bare();
  watch.start();
  await leap(100);
  for (const reason of ["refused", "cut", "cut"]) {
    const before = watch.reads.length;
    watch.socket.lost(reason);
    assert.equal(watch.reads.length, before + 1);
    watch.socket.lost(reason);
    await leap(100);
    assert.equal(watch.reads.length, before + 1, "once");
    watch.socket.joined(TERMS, false);
    await leap(100);
  }
});

test("every change is said, once a frame, also while a read hangs", async () => {
  const watch = await live();
  watch.slow = 1e6;
  const changes = {
    "a loss": () => watch.socket.lost("cut"),
    "two losses": () => (watch.socket.lost("cut"), watch.socket.lost("cut")),
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
  const cleared = mock.method(globalThis, "clearTimeout").mock;
  watch.close();
  watch.close();
  assert.deepEqual([watch.closed, cleared.callCount()], [true, 1]);
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

  await leap(1_200_000, 100);
  const [first, second] = await watch.readsIn(70_000, 100);
  assert.equal(second - first, 30_000);

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

test("messages that are numbered postpone a check, once one was made", async () => {
  const watch = await live();
  watch.isCounted = true;
  await leap(1500);
  const before = watch.reads.length;
  for (let count = 0; count < 30; count += 1) {
    watch.socket.message({});
    await leap(100);
  }
  assert.equal(watch.reads.length, before);
});

test("where jobs publish nothing, a message is no news, and a socket is not judged by silence", async () => {
  const watch = await live({}, { quiet: true, checkMs: 0 });
  watch.isHeard = false;
  await leap(1_200_000, 100);
  assert.deepEqual([watch.freshness, watch.reconnects()], ["live", 0]);
  await watch.refresh();
  watch.socket.message({});
  assert.deepEqual(await watch.readsIn(2000), []);
});

test("a hole is read for a tenth of a second after it was seen, until it is closed, and no longer", async () => {
  const watch = await live();
  watch.isMissing = true;
  watch.socket.message({});
  assert.equal(watch.freshness, "catching-up");
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

test("a first read that fails is repeated later than a poll, and what has ended is polled a fifth as often", async () => {
  const watch = new Bare();
  watch.refusal = AWAY;
  watch.start();
  await leap(10);
  assert.deepEqual(await watch.readsIn(5000), [4800]);

  const ended = new Bare();
  Object.defineProperty(ended, "isLive", { value: false });
  ended.start();
  await leap(10);
  assert.deepEqual(await ended.readsIn(31_000), [15_000, 30_000]);
  ended.socket.joined(TERMS, false);
  await leap(10);
  assert.deepEqual(await ended.readsIn(100_000, 100), [], "nothing changes any more");
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

  watch.socket.message({ look_again: true });
  await leap(600);
  assert.equal(watch.freshness, "catching-up", "a read that began so soon may be too early");
  await watch.refresh();
  assert.equal(watch.freshness, "catching-up");
  await leap(160);
  await watch.refresh();
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

test("what is held back is read for as rarely as ever, however impatient a watch is", async () => {
  const watch = await live({ firstSilence: 500 });
  watch.news = true;
  watch.socket.message({ look_again: true });
  assert.deepEqual(await watch.readsIn(3300), [150, 1650, 3150]);
});

test("what a check found may come late, and a cut or closed socket is not judged", async () => {
  const late = await live();
  late.isHeard = false;
  await leap(1500 + 1400);
  late.isHeard = true;
  await leap(5000);
  assert.deepEqual([late.freshness, late.reconnects()], ["live", 0]);
  const slow = await live();
  Object.assign(slow, { slow: 1000, isHeard: false });
  await leap(1500 + 1000 + 1400);
  slow.isHeard = true;
  await leap(5000);
  assert.deepEqual([slow.freshness, slow.reconnects()], ["live", 0], "from the read's end");

  const cut = ({ socket }) => socket.lost("cut");
  const again = (watch) => (cut(watch), watch.socket.joined(TERMS, false), (watch.isHeard = true));
  const ends = { cut, again, closed: (watch) => watch.close() };
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

test("a message ends doubt of its socket, and says nothing of the next one", async () => {
  const watch = await live();
  await leap(70_000, 100);
  watch.isHeard = false;
  await leapUntil(() => watch.freshness === "polling", "doubt");
  watch.socket.message({});
  assert.equal(watch.freshness, "live");

  watch.isHeard = true;
  await leap(4000);
  watch.socket.message({});
  watch.socket.lost("cut");
  watch.socket.joined(TERMS, false);
  await leap(10);
  watch.isHeard = false;
  await leapUntil(() => watch.freshness !== "live", "doubt");
  assert.equal(watch.freshness, "polling");
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
  watch.said = [];
  await leap(300);
  watch.notify();
  await leap(240);
  assert.deepEqual(watch.said, ["live"]);
  await leap(10);
  assert.deepEqual(watch.said, ["live", "live"]);
  await leap(300);

  watch.reads.splice(2);
  happens.focus();
  const before = [...watch.calls];
  assert.equal(before.at(-1), "nudge");
  assert.equal(watch.reads.length, 3);
  await leap(300);
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
