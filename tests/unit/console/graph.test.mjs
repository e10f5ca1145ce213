// A graph of stages: where each is drawn, its state, and what a replay from one keeps.

import assert from "node:assert/strict";
import { test } from "node:test";
import { keptSteps, placed } from "../../../infra/console/lib/graph.js";

const shape = { bottom: ["left", "right"], left: ["top"], right: ["top"], top: [] };

test("each stage is in the column behind all it comes after, with its state", () => {
  const at = (done, status) =>
    Object.fromEntries(
      placed(shape, new Set(done), status).map((s) => [s.name, [s.column, s.row, s.word]]),
    );

  assert.deepEqual(at(["top", "left"], "processing"), {
    top: [0, 0, "Done"],
    left: [1, 0, "Done"],
    right: [1, 1, "Running"],
    bottom: [2, 0, "Not begun"],
  });
  assert.equal(at(["top", "left"], "failed").right[2], "Failed");
  assert.equal(at([], "waiting").top[2], "Waiting");
});

test("a replay keeps of a graph all but the stage and what comes after it", () => {
  const step = (name) => ({ name, kind: "step", result: null });
  const steps = [
    { name: "graph", kind: "graph", result: shape },
    ...["first", "top", "left", "right", "bottom", "last"].map(step),
  ];
  const kept = (from) => keptSteps(steps, from).map((one) => one.name);

  assert.deepEqual(kept("left"), ["graph", "first", "top", "right"]);
  assert.deepEqual(kept("last"), ["graph", "first", "top", "left", "right", "bottom"]);
});

test("a stage that may begin is as its job is, and a circle ends somewhere", () => {
  for (const [status, word, tone] of [
    ["processing", "Running", "processing"],
    ["pending", "To run", "pending"],
    ["waiting", "Waiting", "waiting"],
    ["cancelled", "Cancelled", "cancelled"],
    ["failed", "Failed", "failed"],
  ]) {
    const [top] = placed({ top: [] }, new Set(), status);
    const place = { name: "top", after: [], column: 0, row: 0 };
    assert.deepEqual(top, { ...place, word, tone });
  }
  const [done, next] = placed({ a: [], b: ["a", "gone"] }, new Set(["a"]), "processing");
  assert.deepEqual([done.tone, next.tone], ["completed", "pending"]);
  const columns = placed({ a: ["b"], b: ["a"] }, new Set(), "pending").map(({ column }) => column);
  assert.deepEqual(columns, [1, 2]);
});

test("a step that only looks like a graph is none", () => {
  const steps = [
    { name: "other", kind: "step", result: { b: [], a: ["b"] } },
    { name: "a", kind: "step" },
    { name: "b", kind: "step" },
  ];
  assert.deepEqual(
    keptSteps(steps, "b").map(({ name }) => name),
    ["other", "a"],
  );
});
