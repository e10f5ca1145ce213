// The events of an entity with a stream: read on after each message, and as fresh as is said.

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";
import "./page.mjs";
import { leap } from "./world.mjs";

const { connect } = await import("../../../infra/console/api.js");
const { watchEntity } = await import("../../../infra/console/lib/entity.js");

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
});

/** The watch of a plan, what it said, and the server whose events, gate and refusal the test sets. */
function watching() {
  const server = { events: [], reads: 0, left: 0, gate: null, refusal: null };
  const channel = {
    on: (kind, filter, listener) => {
      assert.deepEqual([kind, filter], ["broadcast", { event: "*" }]);
      server.say = listener;
      return channel;
    },
    subscribe: (listener) => void (server.subscribed = listener),
  };
  const client = {
    channel: (...of) => ((server.opened = of), channel),
    removeChannel: () => (server.left += 1),
  };
  connect(client, { api: "http://api.test" });
  const seqs = [];
  const said = [];
  const read = async (after) => {
    server.reads += 1;
    await server.gate;
    if (server.refusal) throw server.refusal;
    const events = server.events.filter(({ seq }) => seq > after);
    return server.ended ? null : { events: events.slice(0, 2), more: events.length > 2 };
  };
  const watch = watchEntity(
    { name: "plan", id: "p1", topic: "plan:p1", read },
    {
      onEvents: (events) => seqs.push(...events.map(({ seq }) => seq)),
      onFreshness: (value) => said.push(value),
      onGone: () => said.push("gone"),
    },
  );
  return { server, seqs, said, watch };
}

test("held back events are caught up with until a read finds nothing more", async () => {
  const { server, seqs, said, watch } = watching();
  server.subscribed("SUBSCRIBED");
  await leap(50);
  assert.equal(said.at(-1), "live");

  server.events = [{ seq: 1 }, { seq: 2 }];
  server.say({ event: "plan_updated", payload: { look_again: true } });
  assert.equal(said.at(-1), "catching-up", "at once");
  server.refusal = { status: 503 };
  await leap(150);
  assert.equal(said.at(-1), "polling");
  server.refusal = null;
  await leap(2000);
  assert.deepEqual([seqs, said.at(-1)], [[1, 2], "catching-up"], "more may have been held back");
  server.events.push({ seq: 3 });
  await leap(2000);
  assert.deepEqual([seqs, said.at(-1)], [[1, 2, 3], "catching-up"]);
  await leap(2000);
  assert.equal(said.at(-1), "live");
  watch.close();
});

test("events are polled while the topic is not joined, and all pages of them are read", async () => {
  const { server, seqs, said, watch } = watching();
  assert.deepEqual(server.opened, ["plan:p1", { config: { private: true } }]);
  server.events = [1, 2, 3, 4, 5].map((seq) => ({ seq }));
  await leap(50);
  assert.deepEqual([seqs, said], [[1, 2, 3, 4, 5], ["polling"]]);
  server.events.push({ seq: 6 });
  await leap(2100, 100);
  assert.deepEqual(seqs, [1, 2, 3, 4, 5, 6]);
  server.subscribed("SUBSCRIBED");
  await leap(50);
  const before = server.reads;
  await leap(29_000, 1000);
  assert.equal(server.reads, before);
  await leap(2000, 1000);
  assert.equal(server.reads, before + 1, "a read proves that no message was lost");
  server.refusal = { status: 503 };
  server.say({ event: "plan_updated", payload: {} });
  await leap(200);
  assert.equal(said.at(-1), "polling");
  server.refusal = null;
  await leap(31_000, 1000);
  assert.equal(said.at(-1), "live");
  server.subscribed("CHANNEL_ERROR");
  await leap(50);
  assert.equal(said.at(-1), "polling", "a topic that is lost is one that cannot be joined");
  watch.close();
  const { reads } = server;
  server.say({ event: "plan_updated", payload: {} });
  await leap(60_000, 1000);
  assert.equal(server.reads, reads);
});

test("a message during a read is followed by another, and a watch that is closed says no more", async () => {
  const { server, seqs, said, watch } = watching();
  let answer;
  const hold = () => (server.gate = new Promise((resolve) => (answer = resolve)));
  hold();
  await leap(50);
  server.say({ event: "plan_updated", payload: {} });
  await leap(150);
  assert.equal(server.reads, 1);
  answer();
  await leap(50);
  assert.equal(server.reads, 2);

  hold();
  server.events = [{ seq: 1 }];
  server.say({ event: "plan_updated", payload: {} });
  await leap(150);
  const { length } = said;
  server.say({ event: "plan_updated", payload: {} });
  watch.close();
  answer();
  await leap(60_000, 1000);
  assert.deepEqual([seqs, said.length, server.reads, server.left], [[], length, 3, 1]);
});

test("a read that fails after its watch was closed says nothing", async () => {
  const { server, said, watch } = watching();
  let fail;
  server.gate = new Promise((_, reject) => (fail = reject));
  await leap(50);
  watch.close();
  fail({ status: 503 });
  await leap(50);

  assert.deepEqual(said, []);
});

test("an entity that is deleted, or is not there, is gone; one whose stream ended was read", async () => {
  const deleted = watching();
  await leap(50);
  deleted.server.say({ event: "plan_deleted", payload: { plan_id: "p2" } });
  assert.equal(deleted.server.left, 0);
  deleted.server.say({ event: "plan_deleted", payload: { plan_id: "p1" } });
  assert.deepEqual([deleted.said.at(-1), deleted.server.left], ["gone", 1]);

  const missing = watching();
  missing.server.refusal = { status: 404 };
  await leap(5000, 1000);
  assert.deepEqual([missing.said, missing.server.reads, missing.server.left], [["gone"], 1, 1]);

  const ended = watching();
  ended.server.ended = true;
  ended.server.subscribed("SUBSCRIBED");
  await leap(50);
  assert.deepEqual(ended.said, ["live"]);
  ended.watch.close();
});
