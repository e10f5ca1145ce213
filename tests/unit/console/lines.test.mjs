// A job's log lines: the latest page first, earlier ones on demand, each once and in order.

import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { mounted } from "./components.mjs";
import { leap, turn } from "./world.mjs";

const { connect } = await import("../../../infra/console/api.js");
const { JobLines, useJobLines } = await import("../../../infra/console/lib/job-lines.js");

const line = (id, job_id = "j1") => ({
  ...{ id, job_id, message: `line ${id}`, attempt: 2, log_level: "info" },
  ...{ metadata: { a: id }, created_at: "2026-11-20T08:00:00Z" },
});

/** Lines of one job as the Data API gives them: a query that is narrowed, sorted, and awaited. */
function holding(count) {
  const table = Array.from({ length: count }, (_, at) => line(at + 1));
  const server = { table, reads: 0, gate: null, error: null };
  const query = (rows, most) => {
    const where = (fits) => query(rows.filter(fits), most);
    return {
      select: (names) => {
        const asked = names.split(",").sort();
        assert.deepEqual([...asked, "job_id"].sort(), Object.keys(line(1)).sort());
        return query(rows, most);
      },
      eq: (name, value) => where((row) => row[name] === value),
      limit: (limit) => query(rows, limit),
      lt: (name, id) => where((row) => row[name] < id),
      gt: (name, id) => where((row) => row[name] > id),
      order: (name, { ascending = true } = {}) =>
        query(
          [...rows].sort((a, b) => (ascending ? a[name] - b[name] : b[name] - a[name])),
          most,
        ),
      then: async (resolve) => {
        server.reads += 1;
        await server.gate;
        resolve({
          data: rows.slice(0, most),
          error: server.error,
          status: server.error ? 503 : 200,
        });
      },
    };
  };
  const from = (name) => (assert.equal(name, "job_logs"), query(table, Infinity));
  connect({ schema: () => ({ from }) }, { api: "http://api.test" });
  return server;
}

test("earlier lines are offered until the first is here, and new ones are added", async () => {
  const { table } = holding(2500);
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

test("a line has its time, level, attempt, message and what came with it", async () => {
  holding(1);
  let state;
  const lines = new JobLines("j1", (next) => (state = next));
  await lines.notify();

  const known = { level: "info", attempt: 2, message: "line 1", metadata: { a: 1 } };
  assert.deepEqual(state, {
    ...{ hasEarlier: false, error: null },
    lines: [{ key: 1, at: "2026-11-20T08:00:00Z", ...known }],
  });
});

test("what is logged during a read is read after it, and no more once no one shows it", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const server = holding(1);
  let go;
  server.gate = new Promise((resolve) => (go = resolve));
  const states = [];
  const lines = new JobLines("j1", (next) => states.push(next.lines.length));
  const reading = lines.notify();
  lines.notify();
  lines.notify();
  await turn();
  assert.equal(server.reads, 1, "one at a time");
  go();
  await turn();
  server.table.push(line(2));
  await leap(110);
  assert.equal(server.reads, 1);
  await leap(10);
  await reading;
  assert.deepEqual([server.reads, states], [2, [1, 2]]);

  await lines.notify();
  assert.equal(server.reads, 3, "it may be asked again");
  lines.close();
  await lines.notify();
  assert.deepEqual([server.reads, states.length], [3, 3]);
  server.gate = new Promise((resolve) => (go = resolve));
  const other = new JobLines("j1", () => assert.fail("no one shows it"));
  const left = other.notify();
  other.close();
  go();
  await left;
  mock.timers.reset();
});

test("a download has every line, and fails where one page does", async () => {
  const server = holding(3500);
  let state;
  const lines = new JobLines("j1", (next) => (state = next));
  await lines.notify();
  server.error = { message: "away" };
  await assert.rejects(lines.all(), /away/);
  assert.deepEqual(
    [state.lines.length, state.hasEarlier, state.error.message],
    [1000, true, "away"],
  );
  assert.equal(await lines.earlier(), false);

  server.error = null;
  const all = await lines.all();
  assert.deepEqual(
    all.map(({ key }) => key),
    server.table.map(({ id }) => id),
  );
  assert.equal(state.error, null);
});

test("a component shows the lines of its job, and reads on at each sign", async () => {
  const server = holding(1500);
  server.table.push({ ...line(3000, "j2") });
  let [id, sign] = ["j1", 1];
  const component = mounted(() => useJobLines(id, sign));
  assert.deepEqual([component.shown.lines, component.shown.earlier], [[], null]);
  await turn();
  assert.equal(component.shown.lines.length, 1000);
  assert.equal(await component.shown.earlier(), false);
  assert.deepEqual([component.shown.lines.length, component.shown.earlier], [1500, null]);
  server.table.push(line(2000));
  component.draw();
  await turn();
  assert.equal(component.shown.lines.length, 1500);
  sign = 2;
  component.draw();
  await turn();
  assert.equal(component.shown.lines.length, 1501);
  assert.equal((await component.shown.all()).length, 1501);

  id = "j2";
  component.draw();
  await turn();
  assert.deepEqual(
    component.shown.lines.map(({ key }) => key),
    [3000],
  );
  const { reads } = server;
  component.leave();
  sign = 3;
  component.draw();
  await turn();
  assert.equal(server.reads, reads, "it is closed");
});
