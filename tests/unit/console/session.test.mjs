// A session's watch: its jobs come and go, and its topic carries all but log lines.

import assert from "node:assert/strict";
import { test } from "node:test";
import { SessionWatch, watchSession } from "../../../infra/console/lib/jobs/watch-session.js";
import { TERMS, until } from "./world.mjs";

/** Nothing is found by waiting for the next read in silence. */
const RARE = { silence: 60_000, firstSilence: 60_000, pollingInterval: 60_000, reorder: 10 };

/** The jobs of a session, their events, and the topic that they are told on. */
class Session {
  constructor() {
    Object.assign(this, {
      rows: [],
      events: [],
      listeners: new Set(),
      isDeaf: false,
      reconnects: 0,
    });
    this.reads = {
      sessionJobs: async (id = "s") => {
        assert.equal(id, "s");
        if (!this.rows) throw Object.assign(new Error("gone"), { reachable: true, status: 404 });
        return this.rows.map((row) => ({ ...row }));
      },
      events: async (id, seq) => this.events.filter((one) => one.job_id === id && one.seq > seq),
    };
    this.topics = {
      join: (topic, listener) => {
        assert.equal(topic, "session:s");
        this.listeners.add(listener);
        queueMicrotask(() => listener.joined(TERMS, false));
        return () => this.listeners.delete(listener);
      },
      nudge: async () => {},
      reconnect: async () => void (this.reconnects += 1),
    };
  }

  commit(id, type, data = {}) {
    let row = this.rows.find((one) => one.id === id);
    if (!row) this.rows.push((row = { id, last_seq: 0, created_at: `${this.rows.length}` }));
    row.last_seq += 1;
    const event = { job_id: id, seq: row.last_seq, type, data, created_at: "2026-11-20T08:00:00Z" };
    this.events.push(event);
    if (this.isDeaf || type === "job.log") return;
    for (const listener of [...this.listeners]) listener.message(event);
  }
}

async function watching(session, options = {}) {
  const told = [];
  const watch = new SessionWatch(session.reads, session.topics, "s", {
    ...RARE,
    history: true,
    onEvent: ({ job_id: id, seq }) => told.push(`${id} ${seq}`),
    ...options,
  });
  watch.start();
  await until(() => watch.freshness === "live", "live");
  return { watch, told };
}

test("a job that a message names first is read at once, and its log lines are no hole", async () => {
  const session = new Session();
  const { watch, told } = await watching(session);

  session.commit("new", "job.created", { status: "pending" });
  session.commit("new", "job.log");
  session.commit("new", "job.progress", { progress: { percentage: 9 } });
  await until(() => told.length === 2 && watch.freshness === "live", "the new job");

  assert.deepEqual(told, ["new 1", "new 3"]);
  assert.equal(watch.state.jobs[0].last_seq, 3);
  watch.close();
});

test("a socket that brings no new job is found out", async () => {
  const session = new Session();
  const { watch, told } = await watching(session, {
    silence: 60,
    firstSilence: 30,
    pollingInterval: 30,
  });

  session.isDeaf = true;
  session.commit("new", "job.created", { status: "pending" });
  await until(() => told.length === 1, "the new job, by a read in silence");
  await until(() => session.reconnects > 0, "another socket");
  watch.close();
});

test("without its history a job that comes later is told whole, one from before from then on", async () => {
  const session = new Session();
  session.commit("old", "job.created", { status: "pending" });
  const { watch, told } = await watching(session, { history: false });

  session.commit("new", "job.created", { status: "pending" });
  session.commit("old", "job.leased", { status: "processing" });
  session.commit("new", "job.completed", { status: "completed" });
  await until(() => told.length === 3, "both");

  assert.deepEqual(told.sort(), ["new 1", "new 2", "old 2"]);
  watch.close();
});

test("an error of the page costs neither what follows nor the watch", async (t) => {
  const errors = [];
  const { queueMicrotask: queue } = globalThis;
  t.mock.method(globalThis, "queueMicrotask", (run) =>
    queue(() => {
      try {
        run();
      } catch (error) {
        errors.push(error.message);
      }
    }),
  );
  const session = new Session();
  for (const type of ["job.created", "job.leased"]) session.commit("old", type);
  const told = [];
  const onEvent = ({ seq }) => {
    told.push(seq);
    throw new Error(`${seq}`);
  };
  const onChange = () => {
    throw new Error("drawing");
  };

  const { watch } = await watching(session, { onEvent, onChange });
  await new Promise((drawn) => {
    watch.subscribe(drawn);
    watch.notify();
  });

  assert.deepEqual(told, [1, 2]);
  assert.deepEqual([...new Set(errors)].sort(), ["1", "2", "drawing"]);
  assert.equal(watch.state.problem, null);
  watch.close();
});

test("a session that has ended is missing, with what was known of it", async () => {
  const session = new Session();
  session.commit("old", "job.created", { status: "pending" });
  const { watch } = await watching(session);

  const { rows, reads } = session;
  const { sessionJobs } = reads;
  session.rows = null;
  await watch.refresh();

  assert.deepEqual([watch.state.missing, watch.state.jobs.length], [true, 1]);
  assert.equal(watch.state.problem.status, 404);
  assert.notEqual(watch.freshness, "live");

  session.rows = rows;
  await watch.refresh();
  assert.equal(watch.state.missing, false);
  reads.sessionJobs = async () => {
    throw Object.assign(new Error("signed out"), { reachable: true, status: 401 });
  };
  await watch.refresh();
  assert.equal(watch.state.missing, false, "a refusal says nothing of the session");
  reads.sessionJobs = sessionJobs;
  watch.close();
});

test("a row from before what messages said is not shown", async () => {
  const session = new Session();
  session.commit("old", "job.created", { status: "pending" });
  const { watch } = await watching(session);
  const before = await session.reads.sessionJobs();
  session.commit("old", "job.leased", { status: "processing" });

  session.reads.sessionJobs = async () => before;
  await watch.refresh();

  assert.equal(watch.state.jobs[0].status, "processing");
  watch.close();
});

test("a row that is ahead of the events that can be read does not ask for them for ever", async () => {
  const session = new Session();
  session.commit("old", "job.created", { status: "pending" });
  const { watch } = await watching(session);
  session.rows[0].last_seq = 5;
  const { events } = session.reads;
  let reads = 0;
  session.reads.events = (...of) => ((reads += 1), events(...of));

  await watch.refresh();

  assert.deepEqual([reads, watch.freshness], [1, "catching-up"]);
  watch.close();
});

const event = (id, seq, type = "job.progress") => ({ job_id: id, seq, type, data: {} });

/** A watch that reads when it is asked to. */
function unstarted(session) {
  const told = [];
  const onEvent = ({ job_id: id, seq }) => told.push(`${id} ${seq}`);
  const options = { history: true, onEvent };
  return { told, watch: new SessionWatch(session.reads, session.topics, "s", options) };
}

test("one read brings every page, and says whether there was news; the newest job is first", async () => {
  const session = new Session();
  for (let step = 1; step <= 560; step += 1) session.commit("long", "job.progress");
  session.commit("new", "job.completed", { status: "completed" });
  const { events } = session.reads;
  session.reads.events = async (...of) => (await events(...of)).slice(0, 500);
  const { watch, told } = unstarted(session);

  assert.equal(await watch.catchUp(), true);
  assert.deepEqual([told.length, told.at(-1)], [561, "new 1"]);
  assert.deepEqual(
    watch.state.jobs.map(({ id }) => id),
    ["new", "long"],
  );
  let reads = 0;
  session.reads.events = async () => ((reads += 1), []);
  assert.deepEqual([await watch.catchUp(), reads], [false, 0], "there is nothing to read");
  assert.deepEqual([await watch.catchUp(), watch.hasGap], [false, false]);
});

test("what is missing is known until it was read, also where the row is from before it", async () => {
  const session = new Session();
  session.commit("old", "job.created", { status: "pending" });
  const { watch, told } = unstarted(session);
  await watch.catchUp();
  const { sessionJobs } = session.reads;
  session.reads.sessionJobs = async () => {
    const rows = await sessionJobs();
    watch.receive(event("new", 1));
    return rows;
  };
  await watch.catchUp();
  assert.equal(watch.hasGap, true, "a job that came while the others were read");

  const before = await sessionJobs();
  session.reads.sessionJobs = async () => before;
  await watch.catchUp();
  assert.equal(watch.hasGap, false);
  session.commit("old", "job.leased");
  session.commit("old", "job.completed", { status: "completed" });
  watch.receive(session.events[2]);
  assert.equal(watch.hasGap, true, "a hole");
  await watch.catchUp();
  assert.deepEqual(told, ["old 1", "old 2", "old 3"]);
  assert.equal(watch.hasGap, true, "the row of what has ended");
  session.reads.sessionJobs = async () => [{ ...session.rows[0], result: 42 }];
  await watch.catchUp();
  assert.deepEqual([watch.state.jobs[0].result, watch.hasGap], [42, false]);
});

test("a watch says what is known of its session, and what is no event changes nothing", async () => {
  const session = new Session();
  const { watch, told } = unstarted(session);
  const nothing = { jobs: [], freshness: "catching-up", missing: false, problem: null };
  assert.deepEqual([watch.state, watch.hasGap, watch.heardAll], [nothing, false, true]);
  for (const type of ["job.created", "job.leased", "job.log"]) session.commit("old", type);
  session.events[1] = { ...session.events[1], type: null };
  await watch.catchUp();
  assert.deepEqual([told, watch.state.jobs[0].last_seq], [["old 1"], 3]);

  watch.receive({ seq: 4, type: "job.completed" });
  watch.receive(event("old", 4));
  watch.receive(event("old", 5, "job.leased"));
  assert.equal(watch.hasGap, false, "a message says it all");
  watch.receive(event("old", 6, "job.completed"));
  assert.equal(watch.hasGap, true, "but for the result");
});

test("a session is read at once, where its jobs are and with what its guest may ask", async () => {
  const asked = [];
  const answer = { abortSignal: async () => ({ data: { jobs: [] } }) };
  const rpc = (name, values) => (asked.push([name, values]), answer);
  const client = { schema: (schema) => (asked.push(schema), { rpc }), realtime: {} };
  client.realtime.setAuth = () => new Promise(() => {});
  const watch = watchSession(client, "guest_7", { schema: "work" });
  watch.close();

  assert.deepEqual(asked, ["work", ["guest_session_jobs", { p_session_id: "guest_7" }]]);
});

test("what was before a watch without history, and log lines, are not asked of the socket", async () => {
  const session = new Session();
  session.commit("old", "job.created");
  const watch = new SessionWatch(session.reads, session.topics, "s", {});
  await watch.catchUp();
  assert.equal(watch.heardAll, true);
  session.commit("old", "job.log");
  await watch.catchUp();
  assert.equal(watch.heardAll, true);

  watch.receive(event("old", 5));
  watch.onSynced();
  session.rows[0].last_seq = 5;
  session.events = [3, 4, 5].map((seq) => event("old", seq));
  await watch.catchUp();
  assert.equal(watch.heardAll, true, "the last of them came before");
});

test("a socket has brought what it was asked for, whatever it repeats", async () => {
  const session = new Session();
  session.commit("old", "job.created");
  const { watch } = unstarted(session);
  await watch.catchUp();
  assert.equal(watch.heardAll, false);
  watch.onSynced();
  assert.equal(watch.heardAll, true);
  for (const seq of [2, 1]) {
    watch.receive(event("old", seq));
    assert.equal(watch.heardAll, true);
  }
  session.rows[0].last_seq = 3;
  session.events = [event("old", 3)];
  await watch.catchUp();
  assert.equal(watch.heardAll, false);
});
