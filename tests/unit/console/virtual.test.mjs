// Which rows of a long list are drawn: a window with some rows around it, and spacers for the rest.

import assert from "node:assert/strict";
import { test } from "node:test";
import "./page.mjs";

const { OVERSCAN, rowsInView } = await import("../../../infra/console/lib/virtual.js");
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
