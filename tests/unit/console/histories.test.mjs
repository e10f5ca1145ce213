// A watch under random histories, in time that leaps: snapshots, gaps, holds, cuts and refusals.

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";
import { Topics } from "../../../infra/console/lib/jobs/topics.js";
import { JobWatch } from "../../../infra/console/lib/jobs/watch-job.js";
import { watchJobs } from "../../../infra/console/lib/jobs/watch-jobs.js";
import { randomness, sleep, World } from "./world.mjs";

const turn = () => new Promise(setImmediate); // the real one, taken before time is made up
const STEP = 10;

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_800_000_000_000 });
});

async function leap(ms) {
  for (let left = ms; left > 0; left -= STEP) {
    mock.timers.tick(Math.min(STEP, left));
    await turn();
  }
}

async function leapUntil(holds, what, most = 120_000) {
  for (let left = most; !holds(); left -= STEP) {
    assert.ok(left > 0, `never: ${what}`);
    await leap(STEP);
  }
}

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

/** A supabase-js client whose channels the test opens and closes, and what was asked of it. */
function clientOf(answer = null) {
  const asked = { opened: [], left: [], follows: 0, tokens: 0, state() {}, gone() {} };
  const channel = (topic) => ({ topic, on() {}, subscribe: (state) => (asked.state = state) });
  const rpc = () => ((asked.follows += 1), { abortSignal: async () => ({ data: await answer }) });
  const client = {
    realtime: { setAuth: async () => void (asked.tokens += 1), isConnected: () => true },
    channel: (topic) => (asked.opened.push(topic), channel(topic)),
    removeChannel: ({ topic }) => (
      asked.left.push(topic),
      new Promise((resolve) => (asked.gone = resolve))
    ),
    schema: () => ({ rpc }),
  };
  return { client, asked };
}

test("a topic is followed anew for as long as someone listens, and no longer", async () => {
  const { client, asked } = clientOf({ again_seconds: 20 });
  const leave = new Topics(client).join("job:j1", {});
  await leap(STEP);
  assert.equal(asked.follows, 1);

  await leap(41_000); // the server forgets those it does not hear of
  assert.equal(asked.follows, 3);
  leave();
  await leap(60_000);
  assert.equal(asked.follows, 3);
});

test("a topic that was left while the server thought is not followed from its answer on", async () => {
  let follow;
  const { client, asked } = clientOf(new Promise((resolve) => (follow = resolve)));
  const leave = new Topics(client).join("job:j1", {});
  await leap(STEP);
  leave();
  await leap(2000);

  follow({ again_seconds: 20 });
  await leap(60_000);

  assert.equal(asked.follows, 1, "a page that is gone is a message of the budget for ever");
});

test("the listeners of a topic share the reads that the project allows", async () => {
  const { client, asked } = clientOf({ check_seconds: 5 });
  const topics = new Topics(client);
  const terms = [];
  const listener = () => ({ joined: (given) => terms.push(given.checkMs), lost() {} });
  for (const one of [listener(), listener()]) topics.join("job:j1", one);
  await leap(STEP);

  asked.state("SUBSCRIBED");
  await leap(STEP);

  assert.deepEqual(terms, [10_000, 10_000]);
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
  let jobs = ["j1", "j2"].map((id) => ({ id, status: "pending", finished_at: null }));
  const filters = [];
  client.schema = () => ({
    rpc: (name, { p_filter }) => {
      if (p_filter) filters.push(p_filter);
      return { abortSignal: async () => ({ data: name === "list_jobs" ? { jobs } : null }) };
    },
  });
  const filter = { tag: "import-7", workspace_id: "another" };
  const watch = watchJobs(client, "acme", { filter });
  await leap(STEP);
  assert.deepEqual(asked.opened, ["workspace:acme", "job:j1", "job:j2"]);
  assert.deepEqual(filters[0], { tag: "import-7", workspace_id: "acme" });

  jobs = [{ ...jobs[0], status: "completed", finished_at: "2026-11-20T08:00:00Z" }, jobs[1]];
  watch.refresh();
  await leap(2000);
  assert.deepEqual(asked.left, ["job:j1"]);

  watch.close();
  await leap(2000);
  assert.deepEqual(asked.left.sort(), ["job:j1", "job:j2", "workspace:acme"]);
});

test("a topic that someone listens to again is kept, and one who left gets nothing", async () => {
  const { client, asked } = clientOf();
  const topics = new Topics(client);
  const heard = [];
  const listener = (name) => ({
    joined: () => heard.push(`${name} joined`),
    lost: () => heard.push(`${name} lost`),
  });
  const leave = topics.join("job:j1", listener("first"));
  await leap(STEP);
  const { state } = asked;
  state("SUBSCRIBED");
  await leap(STEP);
  topics.join("job:j1", listener("gone"))();
  await leap(2000);
  leave();
  leave(); // as a page that unmounts twice
  topics.join("job:j1", listener("second"));
  await leap(2000);
  assert.deepEqual([heard, asked.left], [["first joined", "second joined"], []]);

  state("CLOSED");
  await leapUntil(() => asked.opened.length === 2, "another channel");
  asked.state("SUBSCRIBED");
  await leap(STEP);
  state("CHANNEL_ERROR"); // of the channel before
  assert.deepEqual(heard.slice(2), ["second lost", "second joined"]);
});

test("a channel that closes is opened again, later each time until it was joined", async () => {
  const { client, asked } = clientOf();
  new Topics(client).join("job:j1", { joined() {}, lost() {} });
  await leap(STEP);
  const closing = async (ms) => {
    const before = asked.opened.length;
    for (let left = ms; left > 0; left -= 100) {
      if (asked.state) asked.state("CLOSED");
      asked.state = null;
      await leap(100);
    }
    return asked.opened.length - before;
  };

  const opened = await closing(60_000);
  assert.ok(opened >= 4 && opened <= 9, `opened ${opened} times in a minute`);
  await leapUntil(() => asked.state, "another channel");
  asked.state("SUBSCRIBED");
  await leap(STEP);
  assert.ok((await closing(2000)) >= 2, "a server that was there is soon asked again");
});

test("a join counts once its follower does, and one refused for its token gets another", async () => {
  let follow;
  const { client, asked } = clientOf(new Promise((resolve) => (follow = resolve)));
  const heard = [];
  const listener = { joined: () => heard.push("joined"), lost: () => heard.push("lost") };
  new Topics(client).join("job:j1", listener);
  await leap(STEP);
  asked.state("SUBSCRIBED");
  await leap(STEP);
  assert.deepEqual(heard, [], "its deliveries would be messages that the budget does not know of");
  follow({});
  await leapUntil(() => heard.length === 1, "joined");
  const tokens = asked.tokens;

  asked.state("CHANNEL_ERROR", new Error("Token has expired"));
  await leap(STEP);

  assert.deepEqual([heard, asked.tokens - tokens], [["joined", "lost"], 1]);
});

test("a topic that is still being left is not joined before it has been", async () => {
  const { client, asked } = clientOf();
  const topics = new Topics(client);
  const leave = topics.join("job:j1", {});
  await leap(STEP);
  leave();
  await leap(2000);
  topics.join("job:j1", {});
  await leap(STEP);
  assert.deepEqual(
    asked.opened,
    ["job:j1"],
    "the client would hand out the channel that is leaving",
  );

  asked.gone();
  await leap(STEP);
  assert.deepEqual(asked.opened, ["job:j1", "job:j1"]);
});
