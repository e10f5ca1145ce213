// A page that comes back, and a network that does: what was missed meanwhile is read at once.

import assert from "node:assert/strict";
import { test } from "node:test";
import { JobWatch } from "../../../infra/console/lib/jobs/watch-job.js";
import { isOffline } from "../../../infra/console/lib/jobs/wakes.js";
import { turn, until, World } from "./world.mjs";

const listeners = {};
const addEventListener = (name, run) => (listeners[name] ??= []).push(run);
const document = { visibilityState: "visible", addEventListener };
const navigator = { onLine: true };
// a hidden page gets no frames
const requestAnimationFrame = (run) => document.visibilityState === "visible" && setImmediate(run);
const page = { addEventListener, document, navigator, requestAnimationFrame };
for (const [name, value] of Object.entries(page))
  Object.defineProperty(globalThis, name, { value, configurable: true });
const happens = (name) => listeners[name].forEach((run) => run());

test("each moment at which a page may have missed something is a read, and offline is said", async () => {
  const world = new World();
  world.commit("job.created", { status: "pending" });
  const rare = { silence: 60_000, firstSilence: 60_000, pollingInterval: 60_000 };
  const watching = () => new JobWatch({}, world.reads, world.topics, "j1", rare);
  const [watch, other] = [watching(), watching()];
  for (const one of [watch, other]) one.start();
  world.connect();
  await until(() => watch.freshness === "live", "live");
  other.close();
  other.wake = () => assert.fail("it is forgotten");

  for (const name of ["online", "focus", "pageshow", "visibilitychange"]) {
    const before = [world.readCount, world.nudges];
    happens(name);
    assert.equal(world.readCount, before[0] + 1, name);
    for (let turns = 0; turns < 3; turns += 1) await turn();
    assert.equal(world.nudges, before[1] + 1, `${name}: once, and not for what was closed`);
  }
  const { nudges } = world;
  document.visibilityState = "hidden";
  happens("visibilitychange");
  navigator.onLine = false;
  const said = new Promise((say) => watch.subscribe(say));
  happens("offline");
  await said;
  assert.deepEqual([watch.freshness, world.nudges], ["offline", nudges]);

  navigator.onLine = true;
  assert.equal(watch.freshness, "live");
  watch.close();
});

test("only a page knows that it is offline, and one without a navigator does not", () => {
  navigator.onLine = false;
  for (const [name, isKnown] of [
    ["navigator", false],
    ["document", false],
    ["nothing", true],
  ]) {
    const before = globalThis[name];
    if (before) Object.defineProperty(globalThis, name, { value: undefined, configurable: true });
    assert.equal(isOffline(), isKnown, `without ${name}`);
    if (before) Object.defineProperty(globalThis, name, { value: before, configurable: true });
  }
});
