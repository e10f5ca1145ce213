// Runs the cases of follow.json: how the client follows a job.
//
// `order`, `jobs`, `frames` and `messages` test pure functions. `stories` simulate time. A story
// begins with a watch of a job, a database and an unsubscribed Realtime topic.
//
// Fields of a story:
// - log: events in the database, by `seq`
// - after: the last `seq` that the reader knows
// - ended: whether the job has ended
// - unchecked: whether the watch never reads because of silence
// - read_takes: seconds until the database responds to a read
// - database: there, away (no response), busy (429), broken (500) or refuses (404)
//
// Each step of a story does its actions in this order, then checks its expectations. A list of
// numbers may be written {"from": 1, "to": 9}.
// - database, read_takes: changes the field
// - commit: adds events to the log
// - prune: removes events up to a number
// - end: ends the job by its latest event
// - join: Realtime accepts the subscription, with these terms of `follow_topic`
// - renew: the database responds to the next call of `follow_topic` with these terms
// - ready: Realtime reports that the subscription delivers messages
// - drop: Realtime closes or rejects the subscription
// - message: the socket delivers these events, one message each. "look again" requests a read,
//   "garbage" is invalid
// - wait: seconds pass. 0 runs the timers that are due
//
// Expectations of a step:
// - delivered: events that the client has delivered since the previous `delivered`
// - says: the freshness
// - reads_at_most: maximum number of reads in this step
// - reconnects: number of times that the client left the topic in the whole story
// - heartbeats: number of times that the client checked the socket in the whole story
// - ends: true if the watch has ended with the job

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { afterEach, beforeEach, mock, test } from "node:test";
import { createClient } from "@supabase/supabase-js";

// loaded here, because the client loads these modules later, and no mocked clock waits for that
import "../../../infra/console/lib/jobs/live.js";
import "../../../infra/console/lib/jobs/output.js";
import { eventsOf } from "../../../infra/console/lib/jobs/messages.js";
import { notify, onWake } from "../../../infra/console/lib/jobs/page.js";
import { outputOf } from "../../../infra/console/lib/jobs/pieces.js";
import { applyEvent, normalizeEvent, Sequence } from "../../../infra/console/lib/jobs/sequence.js";

import { waitAll } from "../../../infra/console/lib/jobs/wait.js";
import { watchJobs, watchWorkspace } from "../../../infra/console/lib/jobs/watch.js";
import { JobGone, watchJob } from "../../../infra/console/lib/jobs/watch-job.js";

const cases = JSON.parse(readFileSync(new URL("./follow.json", import.meta.url), "utf8"));
const turn = () => new Promise(setImmediate); // the real function, before timers are mocked

let world;
const opened = []; // closed after each test
const kept = (watch) => (opened.push(watch), watch);
const follow = (options, id = "j") => kept(watchJob(world.client, id, options));
const list = (filter, options) => kept(watchJobs(world.client, filter, options));

beforeEach(() => {
  world = new World();
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_800_000_000_000 });
  mock.method(Math, "random", () => 0.5); // no jitter
});

afterEach(() => {
  for (const watch of opened.splice(0)) watch.close();
});

/** Advance the clock in steps, and let callbacks run after each step. */
async function leap(ms) {
  const step = ms > 60_000 ? 500 : 50;
  for (let left = ms; left > 0; left -= step) {
    mock.timers.tick(Math.min(step, left));
    for (let n = 0; n < 2; n += 1) await turn();
  }
}

/** Let time pass, and check how many reads that takes. */
async function leapWithReads(ms, most) {
  const { reads } = world;
  await leap(ms);
  assert.ok(world.reads - reads <= most, `${world.reads - reads} reads`);
}

const numbers = (given = []) =>
  Array.isArray(given)
    ? given
    : Array.from({ length: given.to - given.from + 1 }, (_, at) => given.from + at);
const event = (seq) => ({
  job_id: "j",
  seq,
  type: "job.log",
  data: {},
  created_at: "2026-11-20T08:00:00Z",
});
const REFUSALS = { away: 0, busy: 429, broken: 500, refuses: 404 };

const READY = "Replication connection established";

/** Fake of supabase-js, with a database and Realtime in memory. */
class World {
  reads = 0;
  reconnects = 0;
  heartbeats = 0;
  listeners = 0; // for changes of the user
  shown = [];
  signals = []; // signals of the reads
  channel = null;

  constructor({ log = [1], read_takes: takes = 0, database = "there", ended = false } = {}) {
    Object.assign(this, { log: numbers(log).map(event), takes, database, ended });
    const realtime = {
      setAuth: async () => {},
      isConnected: () => true,
      getChannels: () => (this.channel ? [this.channel] : []),
      disconnect: async () => {},
      isConnecting: () => false,
      isDisconnecting: () => false,
      connect: () => {},
      heartbeatIntervalMs: 25_000,
      // reply to heartbeats immediately, because other tests cover dead sockets
      sendHeartbeat: () => (this.heartbeats += 1),
      pendingHeartbeatRef: null,
    };
    const subscription = { unsubscribe: () => (this.listeners -= 1) };
    // the test changes the user with `say(event, session)`
    const onAuthStateChange = (say) => {
      Object.assign(this, { say, listeners: this.listeners + 1 });
      return { data: { subscription } };
    };
    this.client = {
      accessToken: async () => null,
      auth: { onAuthStateChange },
      realtime,
      schema: () => ({ rpc: (...call) => this.#call(...call), from: () => this.#events() }),
      channel: () => (this.channel = this.#channel()),
      removeChannel: async ({ isCut }) => {
        if (!isCut) this.reconnects += 1;
      },
    };
  }

  #call(name, values) {
    if (name !== "follow_topic") {
      this.session = values.p_session_id;
      const abortSignal = (signal) => {
        this.signals.push(signal);
        return this.#read(name, values);
      };
      return { abortSignal };
    }
    const { channel } = this;
    const terms = new Promise((then) => (channel.follow = then));
    return { abortSignal: () => terms };
  }

  #channel() {
    const channel = {
      on: (type, _, listen) => ((channel[type] = listen), channel),
      subscribe: (listen) => {
        channel.say = listen;
        if (this.isJoinable) this.#join();
      },
    };
    return channel;
  }

  /** Reply to the join now, or as soon as a join is requested. */
  #join() {
    const { channel } = this;
    this.isJoinable = !channel?.say;
    if (this.isJoinable) return;
    channel.say("SUBSCRIBED");
    channel.follow({ data: this.terms, status: 200 });
  }

  /** Join the topic, and wait until the reads after the join have ended. */
  async join(terms = {}) {
    await leap(100);
    this.do({ join: terms, ready: true });
    await leap(500);
  }

  async #read(name, { p_job_id: id = "j", p_after: after, p_filter: filter }) {
    this.reads += 1;
    this.shown = [...this.log];
    const { database } = this;
    const job = {
      id,
      status: this.ended ? "completed" : "processing",
      result: this.ended ? "the result" : null,
      finished_at: this.ended ? this.log.length : null,
      streams: this.output && { reply: { attempt: 1, next: this.output.length } },
      last_seq: this.log.at(-1)?.seq ?? 0,
    };
    const piece = { stream: "reply", attempt: 1, from: 0, next: this.output?.length };
    const takes = this.slow?.[id] ?? this.takes;
    if (takes) await new Promise((then) => setTimeout(then, 1000 * takes));
    const found = {
      list_jobs: { jobs: filter?.ids ? this.endsOf(filter) : (this.rows ?? [job]) },
      guest_job: after !== undefined && { events: this.#after(after) },
      job_output: { streams: [{ ...piece, text: this.output }] },
    };
    const data = found[name] || job;
    if (database === "there") return { data, error: null, status: 200 };
    const error = { message: database, code: database === "broken" ? "XX000" : "" };
    return { data: null, error, status: REFUSALS[database] };
  }

  #after = (seq) => this.shown.filter((one) => one.seq > seq);

  #events() {
    const asked = {};
    const query = {
      gt: (_name, seq) => ((asked.after = seq), query),
      limit: (most) => ((asked.most = most), query),
      abortSignal: async () => ({
        data: this.#after(asked.after).slice(0, asked.most),
        error: null,
        status: 200,
      }),
    };
    for (const name of ["select", "eq", "order"]) query[name] = () => query;
    return query;
  }

  /** Apply one step of a story. */
  do(step) {
    this.database = step.database ?? this.database;
    this.takes = step.read_takes ?? this.takes;
    this.log.push(...numbers(step.commit).map(event));
    this.log = this.log.filter((one) => one.seq > (step.prune ?? 0));
    if (step.end) {
      this.ended = true;
      Object.assign(this.log.at(-1), { type: "job.completed", data: { status: "completed" } });
    }
    if (step.join) {
      this.terms = { again_seconds: 60, ...step.join };
      this.#join();
    }
    if (step.renew)
      this.channel.follow({ data: { again_seconds: 60, ...step.renew }, status: 200 });
    if (step.ready) this.channel.system({ message: READY });
    if (step.drop) {
      this.channel.isCut = true;
      this.channel.say("CHANNEL_ERROR", new Error(step.drop));
    }
    for (const said of numbers(step.message)) {
      const found = this.log.find((one) => one.seq === said);
      const payload = found ? { ...found, at: found.created_at } : {};
      this.channel.broadcast({ payload: said === "look again" ? { look_again: true } : payload });
    }
  }
}

for (const story of cases.stories)
  test(story.name, async () => {
    world = new World(story);
    let delivered = [];
    const watch = follow({
      after: story.after ?? 0,
      onEvent: ({ seq }) => delivered.push(seq),
      ...(story.unchecked && { silence: Infinity }),
    });
    for (const [at, step] of story.steps.entries()) {
      const { reads } = world;
      const say = (what) => `step ${at + 1}: ${what}`;
      for (let n = 0; n < 20; n += 1) await turn(); // immediate requests are done
      world.do(step);
      if (step.join) await turn();
      if ("wait" in step) await leap(1000 * step.wait + 20);
      if ("delivered" in step) {
        assert.deepEqual(delivered, numbers(step.delivered), say("delivered"));
        delivered = [];
      }
      if ("says" in step) assert.equal(watch.freshness, step.says, say("says"));
      if ("reads_at_most" in step)
        assert.ok(world.reads - reads <= step.reads_at_most, say(`${world.reads - reads} reads`));
      for (const name of ["reconnects", "heartbeats"])
        if (name in step) assert.equal(world[name], step[name], say(name));
      if (step.ends) assert.equal((await watch.ended).status, "completed");
    }
  });

test("a watch that was closed during a read calls no listener, and `ended` does not hang", async () => {
  world = new World({ log: [1, 2], read_takes: 1, ended: true });
  const said = [];
  const keep = (what) => said.push(what);
  const watch = follow({ after: 0, onEvent: keep, onEnd: keep });
  watch.close();
  await assert.rejects(watch.ended, /closed/);
  await leap(10_000);
  assert.deepEqual(said, []);
});

test("the session listens for changes of user exactly as long as a channel lasts", async () => {
  const [first, second] = ["j", "k"].map((id) => follow({ after: 0 }, id));
  const rejected = [first, second].map((watch) => assert.rejects(watch.ended, /closed/));
  await leap(100);

  first.close();
  await leap(3000);
  assert.equal(world.listeners, 1);
  second.close();
  await leap(3000);
  assert.equal(world.listeners, 0);
  await Promise.all(rejected);
});

test("a watch that begins soon after the end of another keeps its channel", async () => {
  const first = follow();
  await world.join();
  first.close();
  const second = follow();
  await leap(3000);
  assert.deepEqual([second.freshness, world.reconnects], ["live", 0]);
});

test("a topic that the server closes again and again is joined less and less often", async () => {
  const { channel } = world.client;
  let joins = 0;
  world.client.channel = () => {
    joins += 1;
    const made = channel();
    setTimeout(() => made.say("CLOSED"), 10);
    return made;
  };
  follow();
  await leap(60_000);
  assert.ok(joins <= 8, `${joins} joins`);
});

for (const [status, again] of [
  [0, true],
  [403, false],
])
  test(`a follower that gets the status ${status} registers again soon: ${again}`, async () => {
    follow();
    await leap(100);
    const { channel } = world;
    const { follow: respond } = channel;
    channel.say("SUBSCRIBED");
    respond({ data: null, status });
    await leap(5000);
    assert.equal(world.channel.follow !== respond, again);
  });

test("a change of user leaves the channel, and discards rows, output and responses of before", async () => {
  world = new World({ read_takes: 1 });
  world.output = "Hello";
  const delivered = [];
  const onEvent = ({ seq }) => delivered.push(seq);
  const watch = follow({ after: 0, onEvent });
  await leap(3000);
  assert.deepEqual([watch.state.job.id, watch.state.output], ["j", { reply: "Hello" }]);

  watch.refresh();
  await leap(500);
  world.say("SIGNED_IN", { user: { id: "another" } });
  const { job, output } = watch.state;
  assert.deepEqual([job, output, world.reconnects], [null, {}, 1]);
  await leap(2000);
  assert.equal(watch.state.job, null);
  await leap(1000);
  assert.equal(watch.state.job.id, "j");
  assert.deepEqual(delivered, [1]);
});

test("each end of a job that is retried is announced", async () => {
  world = new World({ ended: true });
  const ends = [];
  const onEnd = (job) => ends.push(job.finished_at);
  const watch = follow({ onEnd });
  await leap(1000);
  for (const [seq, ended] of [
    [2, false],
    [3, true],
  ]) {
    world.do({ commit: [seq] });
    world.ended = ended;
    await watch.refresh();
  }
  assert.deepEqual(ends, [1, 3]);
});

test("the output of a job ends with an error immediately when its reader signs out", async () => {
  world.client.accessToken = async () => "x.eyJzdWIiOiAiYWRhIn0.x";
  const ended = assert.rejects(outputOf(world.client, "j", "reply").next(), JobGone);
  await leap(1000);

  world.say("SIGNED_OUT", null);
  await ended;
});

test("output that is aborted ends with an error, and follows the job no longer", async () => {
  const controller = new AbortController();
  const { signal } = controller;
  const next = outputOf(world.client, "j", "reply", { signal }).next();
  const ended = assert.rejects(next, { name: "AbortError" });
  await leap(1000);
  controller.abort();
  await ended;
  await leap(3000);
  assert.equal(world.listeners, 0);
});

test("rows stay if a read is rejected because the token was not renewed", async () => {
  const watch = follow();
  await leap(1000);
  world.client.accessToken = () => Promise.reject(new Error("Auth is away"));
  world.database = "refuses";
  await watch.refresh();
  assert.deepEqual([watch.state.job?.id, watch.freshness], ["j", "offline"]);
});

test("followers share the reads of an outage", async () => {
  const watches = ["j", "k", "l"].map((id) => follow({}, id));
  await leap(1000);
  world.database = "away";
  await Promise.all(watches.map((watch) => watch.refresh()));
  await leapWithReads(60_000, 25);
});

test("few reads hang at the same time, and all of them end with the first response", async () => {
  world = new World({ read_takes: 1000 });
  const watch = follow();
  await leap(9500);
  const hanging = world.signals.filter((signal) => !signal.aborted);
  assert.equal(hanging.length, 3);
  world.takes = 0;
  await leap(5000);
  assert.deepEqual(
    [watch.state.job?.id, hanging.map(({ aborted }) => aborted)],
    ["j", [true, true, true]],
  );
});

test("two followers of a topic read as rarely as one", async () => {
  for (let n = 0; n < 2; n += 1) follow();
  await world.join({ check_seconds: 20 });
  await leapWithReads(60_000, 4);
});

test("a list announces each end once, also of jobs that are no longer in the list", async () => {
  const rowsOf = (ids, status) => ids.map((id) => ({ id, status, last_seq: 0, created_at: "t" }));
  const many = Array.from({ length: 201 }, (_, n) => `many-${n}`);
  world.rows = rowsOf([...many, "stays"], "processing");
  world.endsOf = ({ ids, ...filter }) => {
    assert.deepEqual(filter, { workspace_id: "w", status: null, state: null });
    return rowsOf(ids, "completed");
  };
  const ends = [];
  const filter = { workspace_id: "w", status: "processing" };
  const watch = list(filter, { onEnd: ({ id }) => ends.push(id) });
  await world.join();

  world.rows = rowsOf(["stays"], "processing");
  await watch.refresh();
  assert.equal(ends.length, 200); // one read has at most 200 rows
  await watch.refresh();
  const data = { status: "completed" };
  world.channel.broadcast({ payload: { job_id: "brief", seq: 1, type: "job.completed", data } });
  for (let n = 0; n < 2; n += 1) await watch.refresh();
  assert.deepEqual(ends, [...many, "brief"]);

  world.say("SIGNED_IN", { user: { id: "another" } });
  world.rows = [];
  await leap(3000);
  assert.equal(ends.length, 202);
});

test("a listener that throws disturbs no other", () => {
  const report = mock.method(globalThis, "queueMicrotask", () => {});
  notify(() => assert.fail("a fault of the page"));
  report.mock.restore();
  assert.throws(report.mock.calls[0].arguments[0], /a fault of the page/);
});

test("a page wakes when it becomes visible, until it listens no longer", () => {
  globalThis.document = new EventTarget();
  const controller = new AbortController();
  let wakes = 0;
  onWake(() => (wakes += 1), controller.signal);
  const become = (visibilityState) => {
    Object.assign(document, { visibilityState }).dispatchEvent(new Event("visibilitychange"));
    return wakes;
  };
  assert.deepEqual(["hidden", "visible"].map(become), [0, 1]);
  controller.abort();
  assert.equal(become("visible"), 1);
  delete globalThis.document;
});

const progressTo = (percentage) => ({
  payload: { ...event(2), type: "job.progress", data: { progress: { percentage } }, at: "t" },
});

test("a row that a message has overtaken changes nothing", async () => {
  const watch = follow({ after: 0 });
  await leap(100);
  world.takes = 1;
  await world.join();
  world.channel.broadcast(progressTo(50));
  await leap(1000);
  assert.equal(watch.state.progress.percentage, 50);
});

test("a list that a message has overtaken keeps the newer progress", async () => {
  world = new World({ read_takes: 1 });
  const watch = list({ workspace_id: "w" });
  await leap(1500);
  await world.join();
  world.channel.broadcast(progressTo(50));
  await leap(1000);
  assert.equal(watch.state.jobs[0].progress.percentage, 50);
});

test("a job ends once its row has the result", async () => {
  const watch = follow({ after: 0 });
  await world.join();
  world.do({ read_takes: 1, commit: [2], end: true, message: [2] });
  const { ended } = watch;
  await leap(3000);
  assert.equal((await ended).result, "the result");
});

test("a list discards its rows and leaves its topic when its reader loses access", async () => {
  const watch = list({ workspace_id: "w" });
  await leap(500);
  assert.equal(watch.state.jobs.length, 1);
  await world.join();

  world.database = "refuses";
  await watch.refresh();

  assert.deepEqual([watch.state.jobs, world.reconnects], [[], 1]);
});

test("a guest follows a job by a session's id, until the session has expired", async () => {
  world = new World({ log: [1, 2] });
  const options = { session_id: "s", history: true, historyLimit: 1 };
  const watch = follow(options);
  await leap(1000);
  assert.deepEqual([world.session, watch.state.job.id], ["s", "j"]);
  assert.deepEqual(
    watch.state.events.map(({ seq }) => seq),
    [2],
  );

  world.database = "refuses";
  const ended = assert.rejects(watch.ended, JobGone);
  await leap(10_000);
  await ended;
  assert.equal(watch.state.job, null);
});

test("a wait for jobs returns their rows in the order of the ids", async () => {
  world = new World({ ended: true });
  world.slow = { j: 2 };
  const rows = waitAll(world.client, ["j", "k"]);
  await leap(5000);
  assert.deepEqual(
    (await rows).map(({ id }) => id),
    ["j", "k"],
  );
  assert.equal(world.listeners, 0);
});

test("a wait for jobs that is aborted follows them no longer", async () => {
  const controller = new AbortController();
  const { signal } = controller;
  const aborted = assert.rejects(waitAll(world.client, ["j"], { signal }), { name: "AbortError" });
  await leap(100);
  controller.abort();
  await aborted;
  await assert.rejects(waitAll(world.client, ["j"], { signal }), { name: "AbortError" });
  await leap(3000);
  assert.equal(world.listeners, 0);
});

test("a session is joined after its first job", async () => {
  world.rows = [];
  const watch = list({ session_id: "s" });
  await leap(10_000);
  assert.deepEqual([watch.state.isLoading, watch.freshness], [false, "polling"]);
  assert.equal(world.channel, null);
  const other = list({ session_id: "s", status: "failed" });
  await leap(100);
  assert.notEqual(world.channel, null);
  other.close();
  world.rows = null;
  await leap(5000);
  await world.join();
  assert.deepEqual([watch.state.jobs.length, watch.freshness], [1, "live"]);
});

test("a list whose reads find a new job without a message gets another channel", async () => {
  const rows = [{ id: "b", status: "completed", created_at: "2026-11-20T08:00:02Z" }];
  const watch = kept(watchWorkspace(world.client, "w", { onRead: () => rows }));
  await world.join();
  await leap(3000);
  rows.push({ id: "a", status: "failed", created_at: "2026-11-20T08:00:01Z" }); // moved up
  await leap(10_000);
  assert.deepEqual([watch.freshness, world.reconnects], ["live", 0]);
  rows.unshift({ id: "c", status: "pending", created_at: "2026-11-20T08:00:03Z" });
  await leap(10_000);
  assert.deepEqual([watch.freshness, world.reconnects], ["polling", 1]);
});

test("a watch leaves a busy topic, and joins the topic again when its position is the same", async () => {
  const delivered = [];
  const watch = kept(
    watchWorkspace(world.client, "w", {
      isPausable: true,
      silence: Infinity,
      onRead: () => void (world.reads += 1),
      onEvent: (one) => delivered.push(one),
    }),
  );
  await world.join({ seq: "0" });
  await leap(10_000);
  const send = () => world.channel.broadcast(progressTo(50));

  for (let n = 0; n < 100; n += 1) send();
  await leap(1000);
  assert.deepEqual([delivered.length, world.reconnects, watch.freshness], [30, 1, "live"]);
  const { reads } = world;
  for (const seq of ["1", "2", "3"]) {
    await leap(12_100);
    world.do({ renew: { seq } });
  }
  assert.ok(world.reads - reads <= 3, `${world.reads - reads} reads of a busy topic`);

  await leap(12_100);
  world.do({ renew: { seq: "3" } });
  await world.join({ seq: "3" });
  send();
  assert.deepEqual([delivered.length, world.reconnects, watch.freshness], [31, 1, "live"]);
});

for (const one of cases.order)
  test(one.name, () => {
    const sequence = new Sequence(one.after);
    for (const step of one.steps) {
      const delivered = step.offer
        ? sequence.offer(numbers(step.offer).map(event))
        : sequence.offerPage(numbers(step.page).map(event), { isLast: step.is_last });
      assert.deepEqual(
        delivered.map(({ seq }) => seq),
        numbers(step.delivered),
      );
      if ("last" in step) assert.equal(sequence.last, step.last);
      if ("has_gap" in step) assert.equal(sequence.hasGap, step.has_gap);
    }
  });

for (const { name, job, events, after } of cases.jobs)
  test(name, () => {
    const row = events.reduce(
      (now, each) =>
        applyEvent(now, { ...each, at: `2026-11-20T08:00:0${each.seq}Z`, job_id: "j" }),
      { id: "j", ...job },
    );
    for (const [path, wanted] of Object.entries(after)) {
      const found = path.split(".").reduce((value, part) => value?.[part], row);
      assert.deepEqual(found ?? null, wanted, path);
    }
  });

for (const { name, frame, seq } of cases.frames)
  test(name, () => assert.equal(normalizeEvent(frame)?.seq ?? null, seq));

for (const { name, message, events } of cases.messages)
  test(name, () => assert.deepEqual(eventsOf(message), events));

test("a page without a socket connects at least every five seconds", async () => {
  const attempts = [];
  /** A WebSocket of a server that accepts no connection. */
  class ClosedSocket {
    readyState = 3;
    constructor() {
      attempts.push(Date.now());
      setTimeout(() => this.onclose({ code: 1006 }), 10);
    }
    close() {}
  }
  const row = JSON.stringify({ id: "j", status: "processing", last_seq: 0 });
  const client = createClient("http://database", "key", {
    accessToken: async () => null,
    global: { fetch: async () => new Response(row) },
    realtime: { transport: ClosedSocket },
  });
  kept(watchJob(client, "j"));
  await leap(60_000);
  const pauses = attempts.slice(1).map((at, n) => at - attempts[n]);
  assert.ok(Math.max(...pauses) <= 5000, `the pauses are ${pauses}`);
});
