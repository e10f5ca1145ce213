// A watch against a server that drops, repeats, delays, cuts and goes away.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { JobWatch } from "../../../infra/console/lib/jobs/watch-job.js";
import { sleep, turn, until, World } from "./world.mjs";

/** The watches of a test. */
let open = [];
afterEach(() => {
  for (const watch of open) watch.close();
  open = [];
});

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
  open.push(watch);
  return { watch, told };
}

/** A watch of a job that was just created, once it is live. */
async function live(options, given) {
  const world = new World(given);
  world.commit("job.created", { status: "pending" });
  const { watch, told } = watching(world, options);
  world.connect();
  await until(() => watch.freshness === "live", "live");
  return { world, watch, told };
}

const seqs = (list) => list.map((event) => event.seq);

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
  assert.equal(watch.state.problem.message, "away");
  world.reachable = true;
  await until(() => watch.freshness === "polling", "polling again");
  world.connect();
  await until(() => watch.freshness === "live", "live again");
});

test("a gap is not live, and is read when the missing event does not come by itself", async () => {
  const { world, watch, told } = await live();

  world.drop = 1;
  world.commit("job.leased", { status: "processing", attempts: 1 });
  world.drop = 0;
  world.commit("job.progress", { progress: { percentage: 50 } });
  assert.equal(watch.freshness, "catching-up");
  await until(() => watch.freshness === "live", "live");

  assert.deepEqual(seqs(told), [1, 2, 3]);
});

test("more than is kept behind a gap is read to the end, also where that ends a page", async () => {
  const { world, watch, told } = await live();

  world.drop = 1;
  world.commit("job.progress", { progress: { percentage: 1 } });
  world.drop = 0;
  for (let count = 0; count < 1500; count += 1) world.commit("job.progress", { progress: {} });
  await until(() => watch.freshness === "live", "live");

  assert.equal(told.length, 1502);
});

test("a socket that is joined but delivers nothing is found out, replaced and not trusted", async () => {
  const { world, watch, told } = await live({}, { drop: 1 });

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
});

// Reads in silence are too rare to help: what is lost is found by reading promptly.
const RARE = { silence: 60_000, pollingInterval: 60_000 };

test("a deaf join is not live, and reads bring what is lost until messages arrive", async () => {
  const world = new World({ drop: 1 });
  world.commit("job.created", { status: "pending" });
  const { watch, told } = watching(world, RARE);
  const said = new Set();
  watch.subscribe(() => said.add(watch.freshness));
  world.connect({ isDeaf: true });
  await until(() => told.length === 1, "the first read");

  for (let count = 2; count <= 4; count += 1) {
    world.commit("job.progress", { progress: { percentage: count } });
    await until(() => told.length === count, `event ${count}`);
  }
  assert.deepEqual([...said], ["catching-up"]);
  assert.equal(world.reconnects, 0, "a deaf socket is not a dead one");

  world.connect();
  await until(() => watch.freshness === "live", "live");
});

test("a message proves that messages arrive", async () => {
  const world = new World();
  world.commit("job.created", { status: "pending" });
  const { watch } = watching(world, RARE);
  world.connect({ isDeaf: true });
  await until(() => watch.state.job, "the row");
  assert.equal(watch.freshness, "catching-up");

  world.commit("job.leased", { status: "processing" });
  await until(() => watch.freshness === "live", "live");
});

test("a server that never says whether messages arrive is believed after a while", async () => {
  const world = new World();
  world.commit("job.created", { status: "pending" });
  const { watch } = watching(world, { ...RARE, readyTimeout: 60 });
  world.connect({ isDeaf: true });
  await until(() => watch.freshness === "live", "live");
});

test("the last message of many is missed at once, and looked for while messages are dropped", async () => {
  const { world, watch, told } = await live(RARE);
  await sleep(2 * FAST.firstSilence); // past the check of the join

  world.commit("job.leased", { status: "processing", attempts: 1 });
  world.drop = 1;
  world.commit("job.progress", { progress: { percentage: 50 } });
  await until(() => told.length === 3, "what was dropped");
  await until(() => watch.freshness === "catching-up", "that messages are dropped");

  world.drop = 0;
  world.commit("job.progress", { progress: { percentage: 60 } });
  await sleep(4 * FAST.firstSilence); // a pause, after which nothing is heard
  world.drop = 1;
  world.commit("job.progress", { progress: { percentage: 70 } });
  await until(() => told.length === 5, "what was dropped after a pause");
  assert.equal(world.reconnects, 0, "another socket would be dropped from as well");
});

test("what is dropped after a pause is found, though nothing follows", async () => {
  const { world, told } = await live(RARE);
  await sleep(6 * FAST.firstSilence);

  world.drop = 1;
  world.commit("job.leased", { status: "processing", attempts: 1 });
  await until(() => told.length === 2, "what was dropped");
});

test("a first message that is only late does not cost the socket", async () => {
  const { world, watch, told } = await live(RARE, { drop: 1 });

  world.commit("job.leased", { status: "processing", attempts: 1 });
  await until(() => told.length === 2 && watch.freshness === "polling", "what was not heard");
  world.drop = 0;
  world.commit("job.progress", { progress: { percentage: 50 } });
  await until(() => watch.freshness !== "polling", "that the socket delivers");
  assert.equal(world.reconnects, 0);
});

for (const end of ["completed", "failed", "cancelled"]) {
  test(`a wait for the end settles when the job is ${end}`, async () => {
    const world = new World();
    world.commit("job.created", { status: "pending" });
    const { watch } = watching(world);
    world.connect();
    const both = Promise.all([watch.ended, watch.ended]);

    world.commit(`job.${end}`, { status: end, error_message: "why" });

    assert.deepEqual(new Set((await both).map((row) => row.status)), new Set([end]));
    assert.deepEqual([watch.state.isEnded, watch.state.error], [true, "why"]);
  });
}

test("a wait that begins when the end is told has the row of the end, not the one before", async () => {
  const world = new World();
  world.commit("job.created", { status: "pending" });
  let ended = null;
  const { watch } = watching(world, {
    onEvent({ type }) {
      if (type === "job.completed") queueMicrotask(() => (ended = watch.ended));
    },
  });
  world.connect();
  await until(() => watch.freshness === "live", "live");

  world.commit("job.completed", { status: "completed" });
  world.job = { ...world.job, result: { answer: 42 } };
  await until(() => ended, "the end");

  assert.deepEqual((await ended).result, { answer: 42 });
});

test("a wait for the end of a deleted job, or of one no longer watched, is refused", async () => {
  const world = new World();
  world.commit("job.created", { status: "pending" });
  const { watch } = watching(world);
  await until(() => watch.state.job, "the row");
  const { ended } = watch;
  const { job } = world;
  world.job = null;
  await assert.rejects(ended, { name: "JobGone" });
  assert.equal(watch.state.missing, true);

  const late = watching(world, RARE);
  await until(() => late.watch.state.missing, "that it is gone");
  const reason = late.watch.ended.catch(({ name }) => name);
  assert.equal(await Promise.race([reason, new Promise(setImmediate)]), "JobGone", "at once");
  world.job = job;
  await watch.refresh();
  assert.equal(watch.state.missing, false, "it is theirs again");

  const other = watching(new World());
  const never = other.watch.ended;
  other.watch.close();
  await assert.rejects(never, /closed/);

  const { watch: left } = watching(new World());
  void left.ended; // no one waits for it
  left.close();
  await turn();
});

test("without history only what happens from now on is told, over the present row", async () => {
  const world = new World();
  for (const percentage of [10, 20, 30])
    world.commit("job.progress", { status: "processing", progress: { percentage } });
  const { watch, told } = watching(world, { history: false });
  world.connect();
  await until(() => watch.freshness === "live", "live");
  assert.deepEqual([watch.state.progress.percentage, told, watch.state.events], [30, [], []]);

  world.commit("job.progress", { progress: { percentage: 40 } });
  await until(() => told.length === 1, "the new one");

  assert.deepEqual([watch.state.progress.percentage, watch.state.events], [40, []]);
});

test("a quiet job with a past is not asked of a socket that was not there", async () => {
  const world = new World();
  for (let step = 1; step <= 5; step += 1) world.commit("job.progress", { status: "processing" });
  const { watch } = watching(world);
  world.connect();
  await until(() => watch.freshness === "live", "live");

  await sleep(250);

  assert.deepEqual([watch.freshness, world.reconnects], ["live", 0]);
});

test("a row read ahead of its events is not live until they are told", async () => {
  const { world, watch, told } = await live();
  const { events } = world.reads;
  world.reads.events = async (...of) => (await sleep(60), events(...of));
  world.drop = 1;
  world.commit("job.completed", { status: "completed" });

  const reading = watch.refresh();
  await until(() => watch.state.isEnded, "the row");
  assert.deepEqual([watch.freshness, told.length], ["catching-up", 1]);
  await reading;

  assert.deepEqual([watch.freshness, told.length], ["live", 2]);
});

test("a history whose beginning retention took is told from where it begins", async () => {
  const world = new World();
  for (let step = 1; step <= 600; step += 1) world.commit("job.progress", { status: "processing" });
  world.events.splice(0, 40);
  const { watch, told } = watching(world);
  world.connect();

  await until(() => watch.freshness === "live", "live");

  assert.deepEqual(seqs(told), seqs(world.events));
});

test("a history has so many of the latest events", async () => {
  const world = new World();
  for (let step = 1; step <= 30; step += 1) world.commit("job.progress", { status: "processing" });
  const { watch, told } = watching(world, { historyLimit: 5 });
  world.connect();
  await until(() => watch.freshness === "live", "live");

  assert.deepEqual(seqs(told), [26, 27, 28, 29, 30]);
});

test("many who are to look again do not read at the same moment", async () => {
  const world = new World();
  world.commit("job.created", { status: "pending" });
  const calm = { silence: 60_000, firstSilence: 60_000 };
  const all = Array.from({ length: 20 }, () => watching(world, calm).watch);
  world.connect();
  await until(() => all.every((watch) => watch.freshness === "live"), "live");
  const before = world.readCount;

  for (const listener of world.listeners) listener.message({ look_again: true });

  assert.ok(world.readCount - before < all.length, "they wait their turn");
  await until(() => world.readCount - before >= all.length, "each of them");
});

test("what a job waits for ends with its wait, also where its end was missed", async () => {
  const { world, watch } = await live();
  world.commit("job.waiting", { status: "waiting", wait: "a word" });
  assert.equal(watch.state.job.waiting_for, "a word");

  world.drop = 1;
  world.commit("job.waiting", { status: "waiting", wait: "an answer" });
  await watch.refresh();
  await watch.refresh();
  assert.equal(watch.state.job.waiting_for, "an answer", "the row does not say it");
  world.commit("job.leased", { status: "processing" });
  await watch.refresh();

  assert.equal(watch.state.job.waiting_for, null);
  const late = unstarted(world);
  await late.watch.catchUp();
  assert.equal(late.watch.state.job.waiting_for, null);
});

test("a quiet, ended job costs no reads, nor does a deleted one", async () => {
  const [world, deleted] = [new World(), new World()];
  world.commit("job.completed", { status: "completed" });
  deleted.job = null;
  for (const one of [world, deleted]) {
    const { watch } = watching(one);
    one.connect();
    await until(() => watch.freshness === "live", "live");
  }
  const before = [world.readCount, deleted.readCount];

  await sleep(200);

  assert.deepEqual([world.readCount, deleted.readCount], before);
});

/** A watch that reads when it is asked to. */
function unstarted(world, options = {}) {
  const told = [];
  const given = { history: true, onEvent: ({ seq }) => told.push(seq), ...options };
  const watch = new JobWatch({}, world.reads, world.topics, "j1", given);
  open.push(watch);
  return { watch, told };
}

test("one read brings every page and the row at its end, and says whether there was news", async () => {
  const world = new World();
  for (let step = 1; step <= 560; step += 1) world.commit("job.progress", { status: "processing" });
  const { watch, told } = unstarted(world);
  assert.equal(await watch.catchUp(), true);
  assert.deepEqual([told.length, world.readCount], [560, 3]);
  assert.equal(await watch.catchUp(), false);

  const { events } = world.reads;
  world.reads.events = async (...of) => {
    if (!world.job.result) world.commit("job.completed", { status: "completed" });
    return events(...of);
  };
  world.commit("job.progress");
  assert.equal(await watch.catchUp(), true);
  assert.equal(watch.state.job.result.answer, 42);

  world.job.last_seq += 9; // more than there are events to read
  assert.equal(await watch.catchUp(), false);
});

test("a hole is read although the row that was read is from before it", async () => {
  const world = new World();
  world.commit("job.created", { status: "pending" });
  const { watch, told } = unstarted(world);
  await watch.catchUp();
  const { job } = world;
  world.commit("job.leased", { status: "processing" });
  world.commit("job.progress");
  world.job = job;
  watch.receive(world.events[2]);
  watch.receive({ ...world.events[2], job_id: "another", seq: 4 });
  await watch.catchUp();

  assert.deepEqual(told, [1, 2, 3]);
});

test("a watch begins where it is to, and reads a row once that is whole", async () => {
  const world = new World();
  const empty = unstarted(world);
  await empty.watch.catchUp();
  assert.equal(empty.watch.hasGap, false);

  for (const type of ["created", "leased"]) world.commit(`job.${type}`);
  world.commit("job.completed", { status: "completed" });
  for (const [after, seen] of Object.entries({ 0: [1, 2, 3], 2: [3] })) {
    const before = world.readCount;
    const { watch, told } = unstarted(world, { history: false, after: Number(after) });
    await watch.catchUp();
    assert.deepEqual([told, world.readCount - before], [seen, 2]);
  }
});

test("a watch says all that is known of its job, and before that nothing", async () => {
  const world = new World();
  const { watch } = unstarted(world);
  const none = { job: null, status: null, progress: null, error: null, problem: null, events: [] };
  const not = { isCompleted: false, isFailed: false, isEnded: false, missing: false };
  const freshness = "catching-up";
  assert.deepEqual(watch.state, { ...none, ...not, freshness });
  const { hasGap, heardAll, isLive, isNumbered } = watch;
  assert.deepEqual([hasGap, heardAll, isLive, isNumbered], [false, true, true, true]);

  await watch.catchUp();
  assert.deepEqual(watch.state, {
    ...{ ...none, ...not, freshness, status: "pending" },
    job: { ...world.job, waiting_for: null },
  });
  const progress = { percentage: 4 };
  const now = (status) => ({ status, progress, error: "no", freshness });
  for (const [status, known] of [
    ["processing", {}],
    ["completed", { isCompleted: true, isEnded: true }],
    ["failed", { isFailed: true, isEnded: true }],
    ["cancelled", { isEnded: true }],
  ]) {
    world.job = { ...world.job, status, progress, error_message: "no" };
    await watch.catchUp();
    const { job, ...state } = watch.state;
    assert.deepEqual({ ...state, job: null }, { ...none, ...not, ...known, ...now(job.status) });
    assert.equal(watch.isLive, status === "processing");
  }
});

test("what is no event among those of a page costs none of the others", async () => {
  const world = new World();
  for (let step = 1; step <= 3; step += 1) world.commit("job.progress");
  world.events[1] = { seq: 2 };
  const { watch, told } = unstarted(world);
  await watch.catchUp();

  assert.deepEqual(told, [1, 3]);
});

test("a job that waits is watched from there, and one deleted while it is read is gone", async () => {
  const world = new World();
  world.commit("job.waiting", { status: "waiting" });
  const { watch } = unstarted(world, { history: false });
  await watch.catchUp();
  assert.equal(watch.state.job.waiting_for, null);

  world.commit("job.completed", { status: "completed" });
  watch.receive(world.events[1]);
  const { job } = world.reads;
  let reads = 0;
  world.reads.job = async () => ((reads += 1) === 1 ? { ...(await job()), last_seq: 1 } : null);
  await watch.catchUp();
  assert.deepEqual([reads, watch.state.missing], [2, true]);
});

test("a socket is asked for what reads have found since it was there, whatever it repeats", async () => {
  const world = new World();
  world.commit("job.created", { status: "pending" });
  const { watch } = unstarted(world);
  await watch.catchUp();
  assert.equal(watch.heardAll, false);
  watch.onSynced();
  assert.equal(watch.heardAll, true);
  for (const seq of [2, 1]) watch.receive({ ...world.events[0], seq });
  watch.receive({});
  assert.equal(watch.heardAll, true);
  watch.onSynced();
  world.commit("job.leased", { status: "processing" });
  world.commit("job.log");
  await watch.catchUp();
  assert.equal(watch.heardAll, false);
});

test("a job is cancelled by its function where the page has no other way", async () => {
  const world = new World();
  const asked = [];
  const rpc = async (...given) => (asked.push(given), { data: { id: "j1" } });
  const client = { schema: (schema) => (asked.push(schema), { rpc }) };
  const watch = new JobWatch(client, world.reads, world.topics, "j1", { schema: "work" });

  assert.deepEqual(await watch.cancel(), { id: "j1" });
  assert.deepEqual(asked, ["work", ["cancel_job", { p_job_id: "j1" }]]);
  assert.equal(watch.state.status, "pending", "it was read");
});

test("a job that was cancelled is so once that is answered", async () => {
  const cancel = async (id) => {
    await turn();
    world.commit("job.cancelled", { status: "cancelled" });
    return { id };
  };
  const said = [];
  const onChange = ({ status }) => said.push(status);
  const { world, watch } = await live({ ...RARE, cancel, onChange });
  world.drop = 1;

  assert.deepEqual(await watch.cancel(), { id: "j1" });
  assert.equal(watch.state.status, "cancelled");
  await until(() => said.at(-1) === "cancelled", "that it is said");
});
