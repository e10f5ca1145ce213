// A client's topics: who listens to which channel, when it is joined again, and for how long.

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";
import { Topics, topicsOf } from "../../../infra/console/lib/jobs/topics.js";
import { clientOf, leap, leapUntil } from "./world.mjs";

const STEP = 10;

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_800_000_000_000 });
});

/** A listener, and what it was given. */
function listening() {
  const heard = [];
  const listener = {
    joined: (terms, isDeaf) => heard.push(isDeaf ? "deaf" : "joined"),
    lost: (reason) => heard.push(`lost: ${reason}`),
    message: (payload) => heard.push(payload),
  };
  return { heard, listener };
}

test("a client has one set of topics, and another client another", () => {
  const [{ client }, { client: other }] = [clientOf(), clientOf()];

  assert.equal(topicsOf(client), topicsOf(client));
  assert.notEqual(topicsOf(client), topicsOf(other));
});

test("a channel is private, follows its topic, and is deaf until messages are said to arrive", async (t) => {
  const timeouts = t.mock.method(AbortSignal, "timeout").mock;
  const { client, asked } = clientOf();
  const { heard, listener } = listening();
  const topics = new Topics(client);
  topics.join("job:j1", listener, "work");
  await leap(STEP);
  assert.deepEqual(asked.calls, ["token", "channel"]);
  assert.deepEqual(asked.config, { private: true, broadcast: { replication_ready: true } });
  const [{ p_follower_id: id, ...follow }] = asked.followed;
  const named = { schema: "work", name: "follow_topic", p_topic: "job:j1", p_version: 2 };
  assert.deepEqual(follow, named);
  assert.match(id, /^[0-9a-f-]{36}$/);
  assert.deepEqual(timeouts.calls.at(-1).arguments, [3000], "a join waits for it");

  asked.state("SUBSCRIBED");
  asked.on.system({ message: "another" });
  await leap(STEP);
  assert.deepEqual(heard, ["deaf"]);
  const early = listening();
  topics.join("job:j1", early.listener)();
  topics.join("job:j1", early.listener);
  await leap(STEP);
  assert.deepEqual(early.heard.splice(0, 1), ["deaf"], "who comes meanwhile as well");
  asked.on.system({ message: "Replication connection established" });
  asked.on.broadcast({ payload: { events: [1, 2] } });
  assert.deepEqual(heard.splice(0), ["deaf", "joined", 1, 2]);
  const late = listening();
  topics.join("job:j1", late.listener);
  await leap(STEP);
  assert.deepEqual(late.heard, ["joined"]);

  await leap(60_000);
  assert.deepEqual([asked.followed.length, asked.followed[1].p_follower_id], [2, id]);
  asked.state("TIMED_OUT");
  assert.deepEqual(heard, ["lost: TIMED_OUT"]);
  asked.state("SUBSCRIBED");
  await leap(STEP);
  assert.equal(heard[1], "deaf", "another socket says for itself that messages arrive");
});

test("what is said before the join of a channel counts from the join on", async () => {
  const { client, asked } = clientOf();
  const { heard, listener } = listening();
  new Topics(client).join("job:j1", listener);
  await leap(STEP);

  asked.on.system({ message: "Replication connection established" });
  assert.deepEqual(heard, []);
  asked.state("SUBSCRIBED");
  await leap(STEP);

  assert.deepEqual(heard, ["joined"]);
});

test("a socket is opened again with a fresh token, once the dead one is closed", async () => {
  const { client, asked } = clientOf();
  const { heard, listener } = listening();
  const topics = new Topics(client);
  topics.join("job:j1", listener);
  await leap(STEP);
  asked.calls = [];

  await topics.nudge();
  assert.deepEqual(asked.calls, ["token"], "a socket that is connected stays");
  asked.isConnected = false;
  await topics.reconnect();
  assert.deepEqual(asked.calls, ["token", "disconnect", "token", "connect"]);
  client.realtime.setAuth = async () => Promise.reject("no session");
  await topics.nudge();
  assert.deepEqual(heard, ["lost: silent", "lost: no session"]);
});

test("a topic is followed for as long as someone listens, once at a time, and no longer", async () => {
  const { client, asked } = clientOf({ again_seconds: 20 });
  const leave = new Topics(client).join("job:j1", listening().listener);
  await leap(STEP);
  assert.equal(asked.followed.length, 1);
  asked.state("CLOSED");
  await leap(1000);
  assert.equal(asked.followed.length, 2, "another channel");

  await leap(41_000); // the server forgets those it does not hear of
  assert.equal(asked.followed.length, 4);
  leave();
  await leap(2000);
  asked.calls = [];
  asked.state("CLOSED");
  await leap(60_000);
  assert.deepEqual([asked.followed.length, asked.calls], [4, []]);
});

test("a topic that was left before its channel could be opened is not joined", async () => {
  const { client, asked } = clientOf();
  let session;
  client.realtime.setAuth = () => new Promise((resolve) => (session = resolve));
  new Topics(client).join("job:j1", {})();
  await leap(2000);

  session();
  await leap(STEP);

  assert.deepEqual(asked.opened, []);
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

  assert.equal(asked.followed.length, 1, "a page that is gone is a message of the budget for ever");
});

test("the listeners of a topic share the reads that the project allows", async () => {
  const { client, asked } = clientOf({ check_seconds: 5, quiet: true });
  const topics = new Topics(client);
  const terms = [];
  const listener = () => ({ joined: (given) => terms.push({ ...given }), lost() {} });
  for (const one of [listener(), listener()]) topics.join("job:j1", one);
  await leap(STEP);

  asked.state("SUBSCRIBED");
  await leap(STEP);

  assert.deepEqual(terms, Array(2).fill({ quiet: true, checkMs: 10_000 }));
});

for (const [answer, terms] of [
  [null, { quiet: false, checkMs: 0 }],
  [{}, { quiet: undefined, checkMs: 0 }],
  [
    { quiet: true, check_seconds: 2 },
    { quiet: true, checkMs: 2000 },
  ],
])
  test(`a listener has the terms of its topic: ${JSON.stringify(answer)}`, async () => {
    const { client, asked } = clientOf(answer);
    const given = [];
    new Topics(client).join("job:j1", { joined: (said) => given.push({ ...said }) });
    await leap(STEP);
    asked.state("SUBSCRIBED");
    await leap(STEP);

    assert.deepEqual(given, [terms]);
  });

test("a listener that comes while others are told is told once, and nothing of before", async () => {
  const { client, asked } = clientOf();
  const topics = new Topics(client);
  const late = listening();
  const joins = () => topics.join("job:j1", late.listener);
  topics.join("job:j1", { joined: joins, message: joins, lost: joins });
  await leap(STEP);

  asked.state("SUBSCRIBED");
  await leap(STEP);
  assert.deepEqual(late.heard.splice(0), ["deaf"]);
  for (const happens of [
    () => asked.on.broadcast({ payload: 1 }),
    () => asked.state("TIMED_OUT"),
  ]) {
    joins()();
    happens();
    assert.deepEqual(late.heard, []);
  }
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
  const { system } = asked.on;
  state("SUBSCRIBED");
  await leap(STEP);
  topics.join("job:j1", listener("gone"))();
  await leap(2000);
  leave();
  leave(); // as a page that unmounts twice
  topics.join("job:j1", listener("second"));
  await leap(2000);
  assert.deepEqual([heard, asked.left], [["first joined", "second joined"], []]);
  topics.join("job:j1", listener("third"));
  state("TIMED_OUT");
  await leap(STEP);
  assert.deepEqual(heard.splice(2), ["second lost", "third lost"], "who came meanwhile as well");
  topics.join("job:j1", listener("fourth"))();

  state("CLOSED");
  await leapUntil(() => asked.opened.length === 2, "another channel");
  asked.state("SUBSCRIBED");
  await leap(STEP);
  state("CHANNEL_ERROR"); // of the channel before
  system({ message: "Replication connection established" });
  const all = ["second lost", "third lost", "second joined", "third joined"];
  assert.deepEqual(heard.slice(2), all);
});

test("a channel that closes is opened again, later each time until it was joined", async (t) => {
  t.mock.method(Math, "random", () => 0);
  const { client, asked } = clientOf();
  const { heard, listener } = listening();
  const leave = new Topics(client).join("job:j1", listener);
  await leap(STEP);
  const pause = async () => {
    const { length } = asked.opened;
    const from = Date.now();
    asked.state("CLOSED");
    await leapUntil(() => asked.opened.length > length, "another channel");
    return (Date.now() - from) / 1000;
  };

  const pauses = [];
  for (let time = 0; time < 7; time += 1) pauses.push(Math.round((await pause()) * 10) / 10);
  assert.deepEqual(pauses, [0.4, 0.8, 1.5, 3.8, 7.5, 22.5, 22.5]);
  asked.state("SUBSCRIBED");
  await leap(STEP);
  assert.ok((await pause()) < 1, "a server that was there is soon asked again");

  for (let time = 0; time < 3; time += 1) await pause();
  asked.calls = [];
  const { state } = asked;
  heard.length = 0;
  state("CLOSED");
  state("SUBSCRIBED");
  await leap(STEP);
  assert.deepEqual(heard, ["lost: closed"], "it is another channel's to say");
  leave();
  await leap(60_000);
  assert.deepEqual([asked.calls, asked.left], [[], []], "no one listens any more");
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
  asked.calls = [];

  asked.state("CHANNEL_ERROR", new Error("no such topic"));
  assert.deepEqual(asked.calls, []);
  for (const refusal of ["Invalid token", "JWT: signature", "Unauthorized", "It has expired"]) {
    asked.state("CHANNEL_ERROR", new Error(refusal));
    await leap(STEP);
    assert.deepEqual(asked.calls.splice(0), ["token"], refusal);
  }

  assert.deepEqual(heard, ["joined", ...Array(5).fill("lost")]);
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
