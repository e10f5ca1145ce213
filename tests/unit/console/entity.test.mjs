// The events of an entity with a stream: read on after each message, and as fresh as is said.

import assert from "node:assert/strict";
import { mock, test } from "node:test";
import "./page.mjs";
import { leap } from "./world.mjs";

const { connect } = await import("../../../infra/console/api.js");
const { watchEntity } = await import("../../../infra/console/lib/entity.js");

test("held back events are caught up with until a read finds nothing more", async () => {
  const server = { events: [], say() {}, subscribed() {} };
  const channel = {
    on: (_kind, _filter, listener) => ((server.say = listener), channel),
    subscribe: (listener) => void (server.subscribed = listener),
  };
  connect({ channel: () => channel, removeChannel() {} }, { api: "http://api.test" });
  mock.timers.enable({ apis: ["setTimeout"] });
  const seqs = [];
  const said = [];
  const read = async (after) => ({
    events: server.events.filter(({ seq }) => seq > after),
    more: false,
  });
  const watch = watchEntity(
    { name: "plan", id: "p1", topic: "plan:p1", read },
    {
      onEvents: (events) => seqs.push(...events.map(({ seq }) => seq)),
      onFreshness: (value) => said.push(value),
      onGone: () => said.push("gone"),
    },
  );
  server.subscribed("SUBSCRIBED");
  await leap(50);
  assert.equal(said.at(-1), "live");

  server.events = [{ seq: 1 }, { seq: 2 }];
  server.say({ event: "plan_updated", payload: { look_again: true } });
  await leap(150);
  assert.deepEqual([seqs, said.at(-1)], [[1, 2], "catching-up"], "more may have been held back");
  server.events.push({ seq: 3 });
  await leap(2000);
  assert.deepEqual([seqs, said.at(-1)], [[1, 2, 3], "catching-up"]);
  await leap(2000);
  assert.equal(said.at(-1), "live");

  watch.close();
  mock.timers.reset();
});
