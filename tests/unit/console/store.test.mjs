// Values that views share, and reads that are repeated: under hooks that draw at once.

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";
import { mounted } from "./components.mjs";
import { leap } from "./world.mjs";

const { createStore, isAway, isPassing, keptChoice, usePolling, useRead, useStore } = await import(
  "../../../infra/console/lib/store.js"
);
const { useLivePages, useWatched } = await import("../../../infra/console/lib/live.js");
const { connect } = await import("../../../infra/console/api.js");

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
});

test("a store tells of each change until one leaves, and of none that changes nothing", () => {
  const store = createStore(1);
  const told = [];
  const leave = store.subscribe((value) => told.push(value));

  store.set(2);
  store.set((now) => now + 1);
  store.set(3);
  leave();
  const late = store.subscribe(() => store.subscribe(() => told.push("late")));
  store.set(4);

  assert.deepEqual([told, store.get()], [[2, 3], 4]);
  late();
  store.set(5);
  assert.deepEqual(told, [2, 3, "late"], "from the next change on");
});

test("a choice is kept in this browser, and one that is not offered is the first", () => {
  localStorage.setItem("look", "gone");
  const { store, next } = keptChoice("look", ["light", "dark"]);
  assert.equal(store.get(), "light");

  next();
  assert.equal(keptChoice("look", ["light", "dark"]).store.get(), "dark");
  next();
  assert.equal(store.get(), "light");
});

test("a component shows what a store holds, also what changed while it was drawn", () => {
  const store = createStore(1);
  let changes = true;
  const shown = mounted(() => {
    const value = useStore(store);
    if (changes) store.set(2);
    changes = false;
    return value;
  });
  assert.equal(shown.shown, 2);
  store.set(3);
  assert.equal(shown.shown, 3);
  shown.leave();
  store.set(4);
  assert.equal(shown.shown, 3);
});

test("a component is drawn once for a change, and listens once to each store that it shows", () => {
  const subscribed = [];
  const storeOf = (value) => {
    const store = createStore(value);
    const subscribe = (listener) => (subscribed.push(value), store.subscribe(listener));
    return { ...store, subscribe };
  };
  let store = storeOf("a");
  let draws = 0;
  const component = mounted(() => ((draws += 1), useStore(store)));
  assert.equal(draws, 1);
  component.draw();
  store.set("b");
  assert.deepEqual([component.shown, draws, subscribed], ["b", 3, ["a"]]);

  store = storeOf("c");
  component.draw();
  store.set("d");
  assert.deepEqual([component.shown, subscribed], ["d", ["a", "c"]]);
});

/** A component that reads what the test answers. */
function reading(inputs = ["a"]) {
  const asked = [];
  const read = (signal) =>
    new Promise((resolve, reject) => asked.push({ signal, resolve, reject, input: inputs[0] }));
  const component = mounted(() => useRead(read, [...inputs]));
  const state = () => {
    const { value, error, isLoading, isStale } = component.shown;
    return [value, error?.status ?? null, isLoading, isStale];
  };
  const answer = async (how, value) => (asked.at(-1)[how](value), await leap(10));
  return { asked, component, inputs, state, answer };
}

test("what was read is shown while it is read again, and as stale where that fails", async () => {
  const { component, state, answer } = reading();
  assert.deepEqual(state(), [undefined, null, true, false]);
  assert.equal(component.shown.error, null);
  await answer("reject", { status: 403 });
  assert.deepEqual(state(), [undefined, 403, false, false]);
  component.shown.refresh();
  await answer("resolve", 1);
  assert.deepEqual(state(), [1, null, false, false]);
  component.shown.refresh();
  assert.deepEqual(state(), [1, null, true, false]);
  await answer("reject", { status: 403 });
  assert.deepEqual(state(), [1, 403, false, true]);
});

test("a server that is away is asked again after five seconds, one that refuses is not", async () => {
  const { asked, component, answer } = reading();
  await answer("reject", { status: 503 });
  await leap(4900);
  assert.equal(asked.length, 1);
  await leap(200);
  assert.equal(asked.length, 2);
  await answer("reject", { status: 503 });
  await leap(5100);
  assert.equal(asked.length, 3);
  await answer("reject", { status: 403 });
  await leap(10_000);
  assert.equal(asked.length, 3);

  component.shown.refresh();
  await answer("reject", { status: 503 });
  component.leave();
  await leap(10_000);
  assert.equal(asked.length, 4, "no one shows it");
});

test("an answer for what is not shown any more is dropped", async () => {
  const { asked, component, inputs, state, answer } = reading();
  await answer("resolve", "of a");
  component.shown.refresh();
  for (const [end, input] of [
    ["resolve", "b"],
    ["reject", "c"],
  ]) {
    inputs[0] = input;
    component.draw();
    const [before] = asked.slice(-2);
    assert.equal(before.signal.aborted, true);
    before[end]({ status: 503 });
    await leap(6000);
    assert.deepEqual([state(), asked.at(-1).input], [[undefined, null, true, false], input]);
  }
  assert.equal(asked.length, 4);
});

test("a page is read again every so often: not while it is hidden, nor during a read", async () => {
  let refreshed = 0;
  const read = { isLoading: false, refresh: () => (refreshed += 1) };
  const inputs = [1000];
  let present = { isLoading: false, refresh: () => assert.fail("it was drawn again since") };
  const component = mounted(() => usePolling(present, inputs[0]));
  present = read;
  for (let draw = 0; draw < 5; draw += 1) {
    component.draw();
    await leap(500);
  }
  assert.equal(refreshed, 2);
  document.visibilityState = "hidden";
  await leap(1000);
  document.visibilityState = "visible";
  read.isLoading = true;
  await leap(1000);
  assert.equal(refreshed, 2);
  read.isLoading = false;
  inputs[0] = null;
  component.draw();
  await leap(3000);
  assert.equal(refreshed, 2);
});

test("events are followed by one read soon after, which waits for one under way", async () => {
  let refreshed = 0;
  let watch;
  let isClosed = false;
  const read = { isLoading: true, refresh: () => (refreshed += 1) };
  const start = (given) => ((watch = given), { close: () => (isClosed = true) });
  let present = { isLoading: false, refresh: () => assert.fail("it was drawn again since") };
  const component = mounted(() => useWatched(present, start, []));
  present = read;
  component.draw();
  assert.equal(component.shown, "catching-up");
  watch.onChange({ freshness: "live" });
  assert.equal(component.shown, "live");

  watch.onResync();
  await leap(900);
  assert.equal(refreshed, 0);
  read.isLoading = false;
  await leap(400);
  assert.equal(refreshed, 1);
  for (let count = 0; count < 5; count += 1) watch.onEvent();
  await leap(1000);
  assert.equal(refreshed, 2);

  watch.onEvent();
  component.leave();
  await leap(1000);
  assert.deepEqual([refreshed, isClosed], [2, true]);
});

test("pages of a workspace are added on demand, and all are read again when a job changes", async () => {
  const topics = [];
  let say;
  const channel = { on: (kind, _, take) => kind === "broadcast" && (say = take), subscribe() {} };
  const rpc = () => ({ abortSignal: async () => ({ data: { events: [], cursor: "c" } }) });
  const client = {
    realtime: { setAuth: async () => {} },
    channel: (topic) => (topics.push(topic), channel),
    removeChannel: async () => {},
    schema: () => ({ rpc }),
  };
  connect(client, { api: "http://api.test" });
  let asked = [];
  const nextOf = { first: "second", second: "third" };
  const list = async (workspace, after = "first", signal = null) => {
    asked.push([workspace, after, signal?.aborted]);
    return { after, next: nextOf[after] };
  };
  let workspace = "acme";
  const component = mounted(() => useLivePages(workspace, list));
  const pages = () => component.shown.value.map(({ after }) => after);
  assert.equal(component.shown.more, null);
  await leap(10);
  assert.deepEqual([pages(), component.shown.freshness], [["first"], "catching-up"]);
  for (const all of [
    ["first", "second"],
    ["first", "second", "third"],
  ]) {
    component.shown.more();
    await leap(10);
    assert.deepEqual(pages(), all);
  }
  assert.equal(component.shown.more, null, "there is no other");

  await leap(1000);
  asked = [];
  say({ payload: { job_id: "j1", seq: 1, type: "job.leased", data: {} } });
  await leap(500);
  const all = ["first", "second", "third"].map((after) => ["acme", after, false]);
  assert.deepEqual(asked, all);
  workspace = "other";
  asked = [];
  component.draw();
  await leap(10);
  assert.deepEqual(
    asked.map(([of, after]) => [of, after]),
    [["other", "first"]],
    "its own first page",
  );
  assert.deepEqual(topics, ["workspace:acme", "workspace:other"]);
  component.leave();
});

test("what is unavailable or asks to wait is asked again, a refusal is not", () => {
  const said = (status) => [isAway({ status }), isPassing({ status })];
  for (const status of [0, 500, 503]) assert.deepEqual(said(status), [true, true], String(status));
  for (const status of [400, 401, 403, 404]) assert.deepEqual(said(status), [false, false]);
  assert.deepEqual(said(429), [false, true]);
  assert.deepEqual([isAway(null), isPassing(null)], [false, false]);
});
