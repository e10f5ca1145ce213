// The two lists of jobs against a server of pages: each row once, in order, the newer of two.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, beforeEach, test } from "node:test";
import { mounted } from "./components.mjs";

const { connect } = await import("../../../infra/console/api.js");
const { JobList, useJobList } = await import("../../../infra/console/lib/job-list.js");

/** Jobs newest first, as the database holds them; `refuse` makes the next answer an error. */
let jobs = [];
let refuse = false;
let asked = [];
let counted = null;

const job = (number, more = {}) => ({
  id: `job-${String(number).padStart(4, "0")}`,
  status: "pending",
  attempts: 0,
  last_seq: 1,
  created_at: new Date(Date.UTC(2026, 10, 20) + number * 1000).toISOString(),
  ...more,
});
const newestFirst = (count) => Array.from({ length: count }, (_, at) => job(count - at));
const idsOf = (list) => list.state.rows.map((row) => row.id);

function pageAfter(id, limit) {
  const page = jobs.filter((one) => !id || one.id < id).slice(0, limit);
  return { jobs: page, next: page.length < limit ? null : page.at(-1).id };
}

async function answer(url) {
  if (url.pathname.endsWith("/rpc/event_feed")) return { events: [], cursor: "c" };
  if (url.searchParams.has("sort")) {
    const from = Number(url.searchParams.get("offset"));
    const page = jobs.slice(from, from + Number(url.searchParams.get("limit")));
    return { jobs: page, more: from + page.length < jobs.length, next_cursor: null };
  }
  if (url.pathname.endsWith("/rest/v1/jobs"))
    return jobs.filter(({ id }) => url.searchParams.get("id").includes(id));
  if (url.pathname === "/api/jobs") {
    const page = pageAfter(url.searchParams.get("cursor"), Number(url.searchParams.get("limit")));
    return { jobs: page.jobs, next_cursor: page.next };
  }
  return { states: { queued: jobs.length }, at_least: [] }; // count_jobs
}

const server = createServer(async (request, response) => {
  const chunks = await request.toArray();
  const url = new URL(request.url, "http://server.test");
  asked.push(url.pathname);
  const body = chunks.length > 0 ? JSON.parse(Buffer.concat(chunks)) : null;
  const status = refuse ? 503 : 200;
  const said = refuse ? { error: "away", code: "unavailable" } : await answer(url, body);
  response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(said));
});
server.listen(0, "127.0.0.1");
await once(server, "listening");
after(() => server.close());

const address = `http://127.0.0.1:${server.address().port}`;
const session = {
  access_token: "token",
  refresh_token: "refresh",
  expires_at: Math.floor(Date.now() / 1000) + 3600,
  user: { id: "ada" },
};
const storage = { getItem: () => JSON.stringify(session), setItem() {}, removeItem() {} };
const auth = { storage, storageKey: "session", autoRefreshToken: false };
const client = globalThis.supabase.createClient(address, "key", { auth });
connect(client, { api: address });

beforeEach(() => {
  jobs = newestFirst(250);
  refuse = false;
  asked = [];
});

const lists = {
  "a workspace's list": () => new JobList("acme", {}, () => {}),
};

for (const [name, make] of Object.entries(lists)) {
  test(`${name} reads each row once, in order, to the end`, async () => {
    const list = make();

    await list.load();
    assert.deepEqual([list.state.rows.length, list.state.isAll], [100, false]);
    await Promise.all([list.more(), list.more()]);
    await list.more();
    await list.more();

    assert.deepEqual(
      idsOf(list),
      jobs.map((one) => one.id),
    );
    assert.equal(list.state.isAll, true);
    assert.equal(
      asked.filter((path) => /\/api\/jobs$/.test(path)).length,
      3,
      "no page is read twice",
    );
    list.close();
  });

  test(`${name} takes new and changed rows at its top and keeps its place`, async () => {
    const list = make();
    await list.load();
    await list.more();
    jobs = [job(251), job(250, { status: "processing", last_seq: 2 }), ...jobs.slice(1)];

    await list.refresh();

    assert.deepEqual(
      idsOf(list),
      jobs.slice(0, 201).map((one) => one.id),
    );
    assert.equal(list.state.rows[1].status, "processing");
    list.close();
  });

  test(`${name} drops what the server no longer has below its only page`, async () => {
    const list = make();
    await list.load();
    await list.more();
    jobs = jobs.slice(0, 40);

    await list.refresh();

    assert.deepEqual(
      idsOf(list),
      jobs.map((one) => one.id),
    );
    assert.equal(list.state.isAll, true);
    list.close();
  });

  test(`${name} keeps what it shows while the server is unavailable, and says why`, async () => {
    const list = make();
    await list.load();
    refuse = true;

    await list.refresh();

    assert.equal(list.state.rows.length, 100);
    assert.equal(list.state.error.status, 503);
    refuse = false;
    await list.refresh();
    assert.equal(list.state.error, null);
    list.close();
  });
}

test("a workspace's list reads again what was not answered", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  refuse = true;
  const list = new JobList("acme", {}, () => {});
  await list.load();
  assert.equal(list.state.error.status, 503);

  refuse = false;
  t.mock.timers.tick(5000);
  const patience = performance.now() + 30_000;
  while (list.state.rows.length === 0 && performance.now() < patience)
    await new Promise(setImmediate);
  assert.deepEqual([list.state.rows.length, list.state.error], [100, null]);
  jobs = jobs.slice(0, 50);
  await list.load();
  assert.equal(list.state.isAll, true);
  jobs = newestFirst(150);
  await list.load();
  assert.deepEqual([list.state.rows.length, list.state.isAll], [100, false]);
  list.close();
});

test("of two reads of a row the one with the later event wins, whichever came last", async () => {
  const list = new JobList("acme", {}, () => {});
  const [before] = jobs;
  jobs[0] = job(250, { status: "completed", last_seq: 5 });
  await list.load();
  jobs[0] = before;

  await list.refresh();

  assert.equal(list.state.rows[0].status, "completed");
  list.close();
});

test("a paused list reads nothing until it is resumed", async () => {
  const list = new JobList("acme", {}, () => {});
  await list.load();
  list.pause();
  jobs = [job(251), ...jobs];
  asked = [];

  await list.refresh();
  assert.deepEqual(
    [asked.filter((path) => path === "/api/jobs"), list.state.rows[0].id],
    [[], "job-0250"],
  );
  list.resume();
  while (list.state.rows[0].id !== "job-0251")
    await new Promise((resolve) => setTimeout(resolve, 5));
  list.close();
});

test("a list in another order than its age is paged by place, to the end", async () => {
  const list = new JobList("acme", { sort: "duration" }, () => {});

  await list.load();
  for (let page = 0; page < 3; page += 1) await list.more();

  assert.deepEqual([idsOf(list), list.state.isAll], [jobs.map((one) => one.id), true]);
  list.close();
});

/** Until something holds, in time that is made up, before a server that takes none. */
async function turnsUntil(holds) {
  for (let turns = 0; turns < 500 && !holds(); turns += 1) await new Promise(setImmediate);
  assert.ok(holds());
}
async function answerAtOnce(given, { body } = {}) {
  const url = new URL(given);
  asked.push(url.pathname);
  const sent = body ? JSON.parse(body) : null;
  if (sent?.p_filter) counted = sent.p_filter;
  return Response.json(await answer(url, sent));
}

test("a row that fits no more goes, and a list that is closed leaves its topic and reads nothing", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  t.mock.method(globalThis, "fetch", answerAtOnce);
  const left = [];
  let say;
  client.realtime.setAuth = async () => {};
  client.channel = (topic) => ({ topic, on: (...of) => (say ??= of[2]), subscribe() {} });
  client.removeChannel = async ({ topic }) => left.push(topic);
  const list = new JobList("acme", { state: "queued", job_type: "mail", search: "x" }, () => {});
  list.start();
  await turnsUntil(() => list.state.rows.length === 100);
  t.mock.timers.tick(0);
  await turnsUntil(() => list.state.counts && say);
  assert.deepEqual(counted, { job_type: "mail" }, "of each state, whatever is searched for");

  const [{ id }] = list.state.rows;
  say({
    payload: { job_id: id, seq: 2, type: "job.leased", data: { status: "processing" }, at: "" },
  });
  t.mock.timers.tick(150);
  assert.equal(list.state.rows.length, 99);

  list.pause();
  say({ payload: { job_id: "new", seq: 1, type: "job.created", data: { status: "pending" } } });
  t.mock.timers.tick(300);
  assert.deepEqual([list.state.missed, list.state.newer, list.state.rows.length], [1, 0, 99]);

  list.close();
  asked = [];
  for (let time = 0; time < 5; time += 1) {
    t.mock.timers.tick(10_000);
    for (let turns = 0; turns < 20; turns += 1) await new Promise(setImmediate);
  }
  assert.deepEqual([left, asked], [["workspace:acme"], []]);
});

let workspaces = 0; // a topic of its own each

/** A list that is started, on a channel that the test speaks on, in time that it makes up. */
async function started(t, filter = {}) {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const feed = { calls: [], isSilent: false, refusal: null };
  t.mock.method(globalThis, "fetch", async (given, options) => {
    const url = new URL(given);
    const name = url.pathname.split("/").at(-1);
    feed.calls.push([name, Object.fromEntries(url.searchParams)]);
    if (name === "event_feed" && feed.isSilent) return new Promise(() => {});
    if (feed.refusal && url.pathname.endsWith(feed.refused ?? ""))
      return Response.json({ error: "no" }, { status: feed.refusal });
    return answerAtOnce(given, options);
  });
  client.realtime.setAuth = async () => {};
  client.removeChannel = async () => {};
  client.channel = (topic) => ({ topic, on: (...of) => (feed.say ??= of[2]), subscribe() {} });
  const list = new JobList(`acme-${(workspaces += 1)}`, filter, () => {});
  const pass = async (ms) => {
    t.mock.timers.tick(ms);
    for (let turns = 0; turns < 30; turns += 1) await new Promise(setImmediate);
  };
  const reads = (name = "jobs") => feed.calls.filter(([called]) => called === name);
  let seq = 1;
  const happens = (id, type, data = {}) =>
    feed.say({ payload: { job_id: id, seq: (seq += 1), type, data, at: "2026-11-20" } });
  return { list, feed, pass, reads, happens };
}
/** The same once it has its first page and counts. */
async function shown(t, filter) {
  const made = await started(t, filter);
  made.list.start();
  await turnsUntil(() => made.list.state.rows.length > 0 && made.feed.say);
  await made.pass(0);
  await turnsUntil(() => made.list.state.counts);
  await made.pass(2000);
  made.feed.calls = [];
  return made;
}

test("a list is read once its feed has begun, or after a while without it, and once", async (t) => {
  const { list, feed, pass, reads } = await started(t);
  feed.isSilent = true;
  list.start();
  await pass(1490);
  assert.equal(reads().length, 0);
  await pass(10);
  await turnsUntil(() => list.state.rows.length === 100);
  await pass(5000);
  assert.equal(reads().length, 1);
  list.close();
});

test("what happens to a row on screen is shown at once and read soon, off screen it is only shown", async (t) => {
  const { list, feed, pass, reads, happens } = await shown(t);
  const [{ id }, other] = list.state.rows;
  list.watchVisible(() => [id]);
  jobs[0] = job(250, { status: "processing", last_seq: 9, glimpse: "whole" });
  happens(id, "job.leased", { status: "processing" });
  happens(other.id, "job.leased", { status: "processing" });
  await pass(100);
  const statuses = list.state.rows.slice(0, 3).map(({ status }) => status);
  assert.deepEqual(statuses, ["processing", "processing", "pending"]);
  assert.equal(reads().length, 0);
  await pass(100);
  await turnsUntil(() => list.state.rows[0].glimpse === "whole");
  assert.deepEqual(
    reads().map(([, { id: ids }]) => ids),
    [`in.(${id})`],
  );
  await pass(5000);
  assert.equal(reads().length, 1);

  document.visibilityState = "hidden";
  happens(id, "job.progress");
  await pass(900);
  assert.equal(reads().length, 1, "no one sees it");
  document.visibilityState = "visible";
  Object.assign(feed, { refusal: 403, refused: "/rest/v1/jobs" });
  await pass(1000);
  assert.equal(reads().length, 2);
  await turnsUntil(() => list.state.error);
  assert.equal(list.state.error.status, 403);
  list.close();
});

test("new jobs come in while the top is on screen, else they are offered", async (t) => {
  const { list, pass, reads, happens } = await shown(t);
  list.watchVisible(() => ["job-0100"]);
  jobs = [job(251), ...jobs];
  happens("job-0251", "job.created", { status: "pending" });
  happens("job-0252", "job.leased", { status: "processing" });
  await pass(1000);
  assert.deepEqual([list.state.newer, reads().length], [1, 0]);

  list.watchVisible(() => ["job-0250"]);
  happens("job-0253", "job.created", { status: "pending" });
  assert.equal(list.state.newer, 2);
  await pass(190);
  assert.equal(reads().length, 0);
  await pass(10);
  await turnsUntil(() => list.state.rows[0].id === "job-0251");
  assert.equal(list.state.newer, 0);
  list.close();
});

for (const [filter, type, data, fits] of [
  [{}, "job.created", { status: "pending" }, true],
  [{}, "job.leased", { status: "processing" }, false],
  [{ job_type: "mail" }, "job.created", { status: "pending", job_type: "mail" }, true],
  [{ job_type: "mail" }, "job.created", { status: "pending", job_type: "call" }, false],
  [{ job_type: "mail" }, "job.created", { status: "pending" }, true],
  [{ state: "running" }, "job.leased", { status: "processing" }, true],
  [{ state: "running" }, "job.created", { status: "pending" }, false],
  [{ state: "queued" }, "job.retried", { status: "pending" }, true],
])
  test(`a job may belong to a list: ${JSON.stringify([filter, type, data])}`, async (t) => {
    jobs = newestFirst(3).map((one) => ({
      ...one,
      status: filter.state === "running" ? "processing" : "pending",
    }));
    const { list, happens } = await shown(t, filter);
    happens("new", type, data);
    assert.equal(list.state.newer, fits ? 1 : 0);
    list.close();
  });

test("states are counted at first at once, then once for many events", async (t) => {
  const { list, pass, reads, happens } = await shown(t);
  for (let count = 0; count < 5; count += 1) happens("other", "job.progress");
  await pass(1190);
  assert.equal(reads("count_jobs").length, 0);
  await pass(10);
  assert.equal(reads("count_jobs").length, 1);
  await pass(5000);
  assert.equal(reads("count_jobs").length, 1);
  list.close();
});

test("a refusal is not repeated, and what a pause missed is counted and read after it", async (t) => {
  const { list, feed, pass, reads, happens } = await shown(t);
  feed.refusal = 403;
  await list.refresh();
  assert.equal(list.state.error.status, 403);
  feed.refusal = null;
  await pass(6000);
  assert.equal(reads().length, 1);
  feed.refusal = 503;
  await list.refresh();
  feed.refusal = null;
  await pass(4990);
  assert.equal(reads().length, 2);
  await pass(10);
  await turnsUntil(() => list.state.error === null);
  assert.equal(reads().length, 3);

  list.pause();
  for (let count = 0; count < 3; count += 1) happens("new", "job.created", { status: "pending" });
  assert.deepEqual([list.state.isPaused, list.state.missed], [true, 3]);
  await list.refresh();
  assert.equal(reads().length, 3);
  list.resume();
  await pass(0);
  assert.deepEqual([list.state.isPaused, list.state.missed, reads().length], [false, 0, 4]);
  list.close();
});

test("a list in another order is read again whole, up to 200 of it", async (t) => {
  const { list, reads } = await shown(t, { sort: "duration" });
  for (const [size, limit] of [
    [100, "100"],
    [200, "200"],
    [250, "200"],
  ]) {
    while (list.state.rows.length < size) await list.more();
    await list.refresh();
    const [, query] = reads().at(-1);
    assert.deepEqual(
      [query.limit, query.sort, query.workspace_id],
      [limit, "duration", `acme-${workspaces}`],
    );
    assert.deepEqual([query.internal, list.state.isAll], ["false", false]);
  }
  list.close();
});

test("a component shows the list of its workspace and filter, and another one when either changes", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  t.mock.method(globalThis, "fetch", answerAtOnce);
  client.channel = () => ({ on() {}, subscribe() {} });
  let given = ["acme", {}];
  const component = mounted(() => useJobList(...given));
  const { list } = component.shown;
  assert.equal(list.current instanceof JobList, true);
  await turnsUntil(() => component.shown.state.rows.length === 100);
  const first = list.current;
  given = ["acme", {}];
  component.draw();
  assert.equal(list.current, first, "it is the same");

  given = ["acme", { state: "queued" }];
  component.draw();
  assert.notEqual(list.current, first);
  assert.deepEqual(component.shown.state.rows, []);
  first.pause();
  assert.equal(first.state.isPaused, false, "it is closed");
  component.leave();
});
