// A job's log lines: the latest page first, earlier ones on demand, each once and in order.

import assert from "node:assert/strict";
import { test } from "node:test";
import "./page.mjs";

const { connect } = await import("../../../infra/console/api.js");
const { JobLines } = await import("../../../infra/console/lib/job-lines.js");

const line = (id, job_id = "j1") => ({ id, job_id, message: `line ${id}` });

/** Lines of one job as the Data API gives them: a query that is narrowed, sorted, and awaited. */
function holding(count) {
  const table = Array.from({ length: count }, (_, at) => line(at + 1));
  const query = (rows, most) => ({
    select: () => query(rows, most),
    eq: (name, value) =>
      query(
        rows.filter((row) => row[name] === value),
        most,
      ),
    limit: (limit) => query(rows, limit),
    lt: (_name, id) =>
      query(
        rows.filter((row) => row.id < id),
        most,
      ),
    gt: (_name, id) =>
      query(
        rows.filter((row) => row.id > id),
        most,
      ),
    order: (_name, { ascending = true } = {}) =>
      query(ascending ? rows : [...rows].reverse(), most),
    then: (resolve) => resolve({ data: rows.slice(0, most), error: null, status: 200 }),
  });
  connect({ schema: () => ({ from: () => query(table, Infinity) }) }, { api: "http://api.test" });
  return table;
}

test("earlier lines are offered until the first is here, and new ones are added", async () => {
  const table = holding(2500);
  let state;
  const lines = new JobLines("j1", (next) => (state = next));

  await lines.notify();
  assert.deepEqual([state.lines.length, state.lines[0].key, state.hasEarlier], [1000, 1501, true]);
  assert.deepEqual([await lines.earlier(), await lines.earlier()], [true, false]);
  assert.equal(state.hasEarlier, false);
  for (let id = 2501; id <= 4000; id += 1) table.push(line(id));
  table.push(line(4001, "j2"));
  await lines.notify();

  assert.deepEqual(
    state.lines.map(({ key }) => key),
    table.slice(0, 4000).map(({ id }) => id),
  );
});
