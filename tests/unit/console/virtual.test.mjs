// Which rows of a long list are drawn: a window with some rows around it, and spacers for the rest.

import assert from "node:assert/strict";
import { test } from "node:test";
import { mounted } from "./components.mjs";

const { OVERSCAN, rowsInView, useVirtual } = await import("../../../infra/console/lib/virtual.js");
const ROW = 32;
const rows = (count, top, height = 320) => rowsInView({ count, rowHeight: ROW, top, height });

test("at the top only rows below are added, at the end only rows above", () => {
  assert.deepEqual(rows(1000, 0), {
    first: 0,
    last: 10 + OVERSCAN,
    before: 0,
    after: (990 - OVERSCAN) * ROW,
  });
  const end = rows(1000, 1000 * ROW - 320);
  assert.deepEqual([end.first, end.last, end.after], [990 - OVERSCAN, 1000, 0]);
});

test("whatever the place, rows and spacers together are as high as the list", () => {
  for (const count of [0, 1, 9, 10, 11, 500, 100_000])
    for (const top of [0, 1, 31, 32, 5000, count * ROW, count * ROW * 2]) {
      const { first, last, before, after } = rows(count, top);
      assert.ok(0 <= first && first <= last && last <= count, `${count} ${top}`);
      assert.equal(before + (last - first) * ROW + after, count * ROW, `${count} ${top}`);
    }
});

test("a row that is cut by the edge of the window is drawn", () => {
  const { first, last } = rows(1000, 100 * ROW + 1);

  assert.equal(first, 100 - OVERSCAN);
  assert.equal(last, 111 + OVERSCAN);
});

test("a list that became shorter than where it was scrolled to draws its end, not less than nothing", () => {
  const { first, last, after } = rows(3, 100_000);

  assert.deepEqual([first <= 3, last, after], [true, 3, 0]);
});

test("a list draws what its box shows, once a frame, and lets the box go", (t) => {
  const frames = [];
  const observed = [];
  const cancelled = [];
  const page = {
    requestAnimationFrame: (run) => frames.push(run),
    cancelAnimationFrame: (frame) => cancelled.push(frame),
    ResizeObserver: class {
      constructor(run) {
        page.resized = run;
      }
      observe = (element) => observed.push(element);
      disconnect = () => observed.pop();
    },
  };
  Object.assign(globalThis, page);
  t.after(() => Object.keys(page).forEach((name) => delete globalThis[name]));
  const listeners = new Set();
  const box = { scrollTop: 0, clientHeight: 320 };
  box.addEventListener = (name, run, options) => {
    assert.deepEqual([name, options], ["scroll", { passive: true }]);
    listeners.add(run);
  };
  box.removeEventListener = (_, run) => listeners.delete(run);
  let draws = 0;
  const component = mounted(() => ((draws += 1), useVirtual({ count: 1000, rowHeight: ROW })));
  const { ref } = component.shown;
  assert.deepEqual([component.shown.last, OVERSCAN], [25 + 8, 8], "before it is measured");

  ref(box);
  assert.deepEqual([component.shown.box.current, observed], [box, [box]]);
  assert.equal(component.shown.last, 10 + OVERSCAN);
  assert.equal(component.shown.ref, ref);
  const before = draws;
  box.scrollTop = 100 * ROW;
  for (let time = 0; time < 3; time += 1) for (const scrolled of listeners) scrolled();
  assert.equal(frames.length, 1);
  frames.pop()();
  assert.deepEqual([component.shown.first, draws], [100 - OVERSCAN, before + 1]);
  page.resized();
  frames.pop()();
  assert.equal(draws, before + 1, "nothing changed");
  box.clientHeight = 640;
  page.resized();
  frames.pop()();
  assert.equal(component.shown.last, 120 + OVERSCAN);

  page.resized();
  ref(null);
  assert.deepEqual([listeners.size, observed, cancelled], [0, [], [1]]);
});
