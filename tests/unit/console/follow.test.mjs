// One job followed, in leaping time: the stories and cases whose format README.md describes.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { beforeEach, mock, test } from "node:test";
import {
  applyEvent,
  eventsOf,
  normalizeEvent,
  Sequence,
} from "../../../infra/console/lib/jobs/sequence.js";
import { JobWatch } from "../../../infra/console/lib/jobs/watch.js";

const cases = JSON.parse(readFileSync(new URL("./follow.json", import.meta.url), "utf8"));
const turn = () => new Promise(setImmediate); // the real one, taken before time is made up

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_800_000_000_000 });
  mock.method(Math, "random", () => 0.5); // no jitter
});

/** Time passes in steps after which everything may happen. */
async function leap(ms) {
  const step = ms > 60_000 ? 100 : 10;
  for (let left = ms; left > 0; left -= step) {
    mock.timers.tick(Math.min(step, left));
    for (let n = 0; n < 2; n += 1) await turn();
  }
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
const REFUSALS = { away: 0, busy: 429, refuses: 404 };

/** The database and Realtime in one: what a client asks of both. */
class World {
  reads = 0;
  reconnects = 0;
  shown = [];

  constructor({ log, read_takes: takes = 0, database = "there", ended = false }) {
    Object.assign(this, { log: numbers(log).map(event), takes, database, ended });
    this.topics = {
      join: (_topic, listener) => {
        this.socket = listener;
        return () => {};
      },
      nudge: async () => {},
      reconnect: async () => {
        this.reconnects += 1;
        this.socket.lost("silent");
      },
    };
  }

  schema() {
    return { rpc: () => ({ abortSignal: () => this.#job() }), from: () => this.#events() };
  }

  async #job() {
    this.reads += 1;
    this.shown = [...this.log];
    const { database } = this;
    const data = {
      id: "j",
      status: this.ended ? "completed" : "processing",
      last_seq: this.log.at(-1)?.seq ?? 0,
    };
    if (this.takes) await new Promise((then) => setTimeout(then, 1000 * this.takes));
    if (database === "there") return { data, error: null, status: 200 };
    return { data: null, error: { message: database }, status: REFUSALS[database] };
  }

  #events() {
    const asked = {};
    const query = {
      gt: (_name, seq) => ((asked.after = seq), query),
      limit: (most) => ((asked.most = most), query),
      abortSignal: async () => ({
        data: this.shown.filter((one) => one.seq > asked.after).slice(0, asked.most),
        error: null,
        status: 200,
      }),
    };
    for (const name of ["select", "eq", "order"]) query[name] = () => query;
    return query;
  }

  /** What a step has happen. */
  do(step) {
    this.database = step.database ?? this.database;
    this.log.push(...numbers(step.commit).map(event));
    this.log = this.log.filter((one) => one.seq > (step.prune ?? 0));
    if (step.end) {
      this.ended = true;
      Object.assign(this.log.at(-1), { type: "job.completed", data: { status: "completed" } });
    }
    const { check_seconds: seconds = 0 } = step.join ?? this.terms ?? {};
    const terms = { checkMs: 1000 * seconds };
    if (step.join) {
      this.terms = step.join;
      this.socket.joined(terms, true);
    }
    if (step.ready) this.socket.joined(terms, false);
    if (step.drop) this.socket.lost(step.drop);
    for (const said of numbers(step.message)) {
      const found = this.log.find((one) => one.seq === said);
      if (said === "look again") this.socket.message({ look_again: true });
      else this.socket.message(found ? { ...found, at: found.created_at } : {});
    }
  }
}

for (const story of cases.stories)
  test(story.name, async () => {
    const world = new World(story);
    let delivered = [];
    const watch = new JobWatch(world, world.topics, "j", {
      after: story.after ?? 0,
      onEvent: ({ seq }) => delivered.push(seq),
    });
    watch.start();
    for (const [at, step] of story.steps.entries()) {
      const { reads } = world;
      const say = (what) => `step ${at + 1}: ${what}`;
      world.do(step);
      if ("wait" in step) await leap(1000 * step.wait + 20);
      if ("delivered" in step) {
        assert.deepEqual(delivered, numbers(step.delivered), say("delivered"));
        delivered = [];
      }
      if ("says" in step) assert.equal(watch.freshness, step.says, say("says"));
      if ("reads_at_most" in step)
        assert.ok(world.reads - reads <= step.reads_at_most, say(`${world.reads - reads} reads`));
      if ("reconnects" in step) assert.equal(world.reconnects, step.reconnects, say("reconnects"));
      if (step.ends === "refused") await assert.rejects(watch.ended, { name: "JobGone" });
      if (step.ends === "ended") assert.equal((await watch.ended).status, "completed");
    }
    watch.close();
  });

test("a watch that was closed during a read says no more, and `ended` does not hang", async () => {
  const world = new World({ log: [1, 2], read_takes: 1, ended: true });
  const said = [];
  const keep = (what) => said.push(what);
  const watch = new JobWatch(world, world.topics, "j", { after: 0, onEvent: keep, onEnd: keep });
  watch.start();
  watch.close();
  await assert.rejects(watch.ended, /closed/);
  await leap(10_000);
  assert.deepEqual(said, []);
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
