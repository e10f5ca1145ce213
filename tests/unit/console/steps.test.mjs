// Pages of finished steps: put together in order, children across a page's end, and no further than asked for.

import assert from "node:assert/strict";
import { test } from "node:test";
import { readSteps } from "../../../infra/console/lib/steps.js";

const at = (second) => `2026-11-20T00:00:0${second}.000000+00:00`;
const step = (name, second, result) => ({ name, created_at: at(second), result });
const child = (id) => ({ id, status: "completed", result: null });
const PAGES = [
  {
    steps: [step("a", 3, 1), step("b", 1, { children: [child("one")] })],
    next: { name: "b", nth: 1 },
    waiting_for: null,
  },
  {
    steps: [step("b", 1, { children: [child("two")] }), step("c", 2, "last")],
    next: { name: "c", nth: 0 },
    waiting_for: { kind: "ask" },
  },
  { steps: [step("d", 4, null)], next: null, waiting_for: null },
];

function reader() {
  const asked = [];
  const readPage = async (after) => {
    asked.push(after);
    return PAGES[asked.length - 1];
  };
  return { asked, readPage };
}

test("as many pages are read as were asked for, each from where the one before ended", async () => {
  const { asked, readPage } = reader();

  const read = await readSteps(readPage, 2);

  assert.deepEqual(asked, [null, { name: "b", nth: 1 }]);
  assert.deepEqual(read.next, { name: "c", nth: 0 });
  assert.deepEqual(read.waiting_for, { kind: "ask" });
});

test("the end is not asked for again, and steps are in the order in which they were finished", async () => {
  const { asked, readPage } = reader();

  const read = await readSteps(readPage, 9);

  assert.equal(asked.length, 3);
  assert.equal(read.next, null);
  assert.deepEqual(
    read.steps.map(({ name }) => name),
    ["b", "c", "a", "d"],
  );
});

test("the children of a step that spans pages are one list", async () => {
  const {
    steps: [gathered],
  } = await readSteps(reader().readPage, 2);

  assert.deepEqual(
    gathered.result.children.map(({ id }) => id),
    ["one", "two"],
  );
});

test("steps of one moment are in the order of their names, and no view holds more than 64 pages", async () => {
  let count = 0;
  const readPage = async () => ({ steps: [step(`${99 - (count += 1)}`, 1, null)], next: {} });

  const { steps } = await readSteps(readPage, 100);

  const names = steps.map(({ name }) => name);
  assert.deepEqual([names.length, names], [64, [...names].sort()]);
});

test("steps of one moment are sorted, however they came", async () => {
  const given = ["b", "d", "a", "c"].map((name) => step(name, 1, null));
  const { steps } = await readSteps(async () => ({ steps: given, next: null }), 1);

  assert.deepEqual(
    steps.map(({ name }) => name),
    ["a", "b", "c", "d"],
  );
});

test("a step that spans pages without children has none", async () => {
  const pages = [
    { steps: [step("a", 1, null)], next: {} },
    { steps: [step("a", 1)], next: null },
  ];
  const { steps } = await readSteps(async () => pages.shift(), 2);

  assert.deepEqual(steps, [step("a", 1, { children: [] })]);
});
