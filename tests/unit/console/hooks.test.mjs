// The hooks without a framework: what they keep between two draws, and when they watch again.

import assert from "node:assert/strict";
import { registerHooks } from "node:module";
import { beforeEach, mock, test } from "node:test";
import { hooksOf } from "../../../infra/console/lib/jobs/hooks.js";
import { makeUseJobStatus } from "../../../infra/console/lib/jobs/use-job-status.js";
import { leap } from "./world.mjs";

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
});

/** A component that draws with one hook, as a framework would call it. */
function drawing(made) {
  const kept = [];
  let at = 0;
  const use = made({
    useState(first) {
      const slot = (kept[at++] ??= { value: first });
      return [slot.value, (next) => void (slot.value = next)];
    },
    useRef: (first) => (kept[at++] ??= { current: first }),
    useEffect(run, inputs) {
      const slot = (kept[at++] ??= {});
      if (slot.inputs?.every((input, n) => Object.is(input, inputs[n]))) return;
      slot.end?.();
      Object.assign(slot, { inputs, end: run() });
    },
  });
  const draw = (...given) => ((at = 0), use(...given));
  return Object.assign(draw, { leave: () => kept.forEach((slot) => slot.end?.()) });
}

/** A client whose every call is noted, and answered alike. */
function clientOf(data, error = null) {
  const asked = [];
  const part = (name) =>
    new Proxy(() => {}, {
      get: (_, next) =>
        next === "then" && name === "answer"
          ? (done) => done({ data, error, status: error ? 422 : 200 })
          : next !== "then" && part(next),
      apply: (_, __, given) => (asked.push([name, ...given]), part("answer")),
    });
  const of = (name) => asked.filter(([called]) => called === name).map(([, ...given]) => given);
  const called = part("client");
  return { client: new Proxy({}, { get: (_, name) => called[name] }), of };
}

test("without a job there is none to cancel, also not the one before", async () => {
  const { client, of } = clientOf([{ id: "j1", status: "pending", last_seq: 0 }]);
  const cancelled = [];
  const cancel = async (id) => void cancelled.push(id);
  const draw = drawing((hooks) => makeUseJobStatus(hooks, () => client));

  const { cancel: first, refresh, ...nothing } = draw({ jobId: "j1", cancel: () => assert.fail() });
  draw({ jobId: "j1", cancel });
  first();
  const words = { status: null, job: null, progress: null, error: null, problem: null };
  const states = { isCompleted: false, isFailed: false, isEnded: false, missing: false };
  assert.deepEqual(nothing, { ...words, ...states, events: [], freshness: "catching-up" });
  await leap(300, 100);
  assert.equal(draw({ jobId: "j1", cancel }).status, "pending");
  const reads = of("limit").length;
  refresh();
  await leap(100, 100);
  assert.equal(of("limit").length, reads + 1);
  draw({ cancel });
  const none = draw({ cancel });
  none.cancel();
  none.refresh();
  await leap(2000, 100);

  assert.deepEqual([cancelled, none.status], [["j1"], null]);
  assert.equal(of("removeChannel").length, 1);
});

test("an event goes to the page's present listener, and another option begins again", async () => {
  const { client, of } = clientOf([{ id: "j1", status: "pending", last_seq: 0 }]);
  const draw = drawing((hooks) => makeUseJobStatus(hooks, client));
  const heard = [];
  draw({ jobId: "j1", onEvent: () => assert.fail("it was drawn again since") });
  draw({ jobId: "j1", onEvent: ({ seq }) => heard.push(seq) });
  await leap(300, 100);

  const [, , message] = of("on").find(([kind]) => kind === "broadcast");
  message({ payload: { job_id: "j1", seq: 1, type: "job.progress", data: {} } });
  assert.deepEqual(heard, [1]);

  for (const more of [{ history: true }, { history: true, pollingInterval: 9000 }]) {
    const reads = of("limit").length;
    draw({ jobId: "j1", ...more });
    assert.equal(of("limit").length, reads + 1);
  }
  await leap(1000, 100);
  message({ payload: { job_id: "j1", seq: 1, type: "job.progress", data: {} } });
  assert.deepEqual(heard, [1], "no one listens");
  await leap(7000, 100);
  const reads = of("limit").length;
  await leap(9000, 100);
  assert.ok(of("limit").length - reads <= 2, "as rarely as it is told to");
  draw.leave();
});

test("a list is watched again for another filter, and not for an equal one", async () => {
  const { client, of } = clientOf({ jobs: [{ id: "j1", finished_at: "2026-11-20T08:00:00Z" }] });
  const defaults = { workspace_id: "acme", schema: "work" };
  const draw = drawing((hooks) => hooksOf(hooks, () => client, defaults).useJobs);
  const lists = () => of("rpc").filter(([name]) => name === "list_jobs");

  const nothing = { jobs: [], isLoading: true, freshness: "catching-up", problem: null };
  assert.deepEqual(draw("import-7"), nothing);
  await leap(300, 100);
  assert.equal(draw("import-7").jobs.length, 1);
  const before = lists().length;
  draw("import-7", { status: ["failed"] });
  assert.equal(draw("import-7", { status: ["failed"] }).isLoading, true);

  assert.equal(lists().length, before + 1);
  const [, { p_filter }] = lists().at(-1);
  assert.deepEqual(p_filter, { tag: "import-7", status: ["failed"], workspace_id: "acme" });
  assert.deepEqual([...new Set(of("schema").flat())], ["work"]);
  draw("import-7", { status: ["failed"], limit: 5 });
  assert.equal(lists().at(-1)[1].p_limit, 5);
  draw(undefined, { workspace_id: "ours" });
  assert.deepEqual(lists().at(-1)[1].p_filter, { workspace_id: "ours" });
  draw(undefined, { workspace_id: "another" });
  assert.deepEqual(lists().at(-1)[1].p_filter, { workspace_id: "another" });
  const { length } = lists();
  draw("import-7", { workspace_id: null });
  await leap(300, 100);
  assert.equal(lists().length, length, "of no workspace there is nothing to list");
  draw.leave();
  await leap(2000, 100);
  assert.equal(
    of("removeChannel").length,
    of("channel").length,
    "what is not shown is not watched",
  );
});

test("a call's own options go before the hook's, and those before the defaults", async () => {
  const { client, of } = clientOf({ job: { id: "j1" } });
  const defaults = { workspace_id: "acme" };
  const draw = drawing((hooks) => hooksOf(hooks, client, defaults).useEnqueue);
  const options = { workspace_id: "ours", tag: "a" };

  assert.equal(draw("mail", options).isEnqueuing, false);
  const enqueueing = draw("mail", options).enqueue({}, { tag: "b" });
  assert.equal(draw("mail", options).isEnqueuing, true);
  assert.deepEqual(await enqueueing, { id: "j1" });
  assert.equal(draw("mail", options).isEnqueuing, false);

  const { problem } = draw("mail", options);
  assert.deepEqual([of("eq"), problem], [[["id", "j1"]], null], "it is followed");
  const [[, asked]] = of("rpc");
  assert.deepEqual([asked.p_workspace_id, asked.p_options], ["ours", { tag: "b" }]);
});

test("a job is followed where the hooks' jobs are, and with the options of the call", async () => {
  for (const [defaults, schema] of [
    [{ schema: "work" }, "work"],
    [undefined, "minutehand"],
  ]) {
    const { client, of } = clientOf([{ id: "j1", status: "pending", last_seq: 1 }]);
    const draw = drawing((hooks) => hooksOf(hooks, client, defaults).useJob);
    const cancel = async (id) => `${id} cancelled`;
    draw("j1", { history: true, cancel });
    await leap(300, 100);
    const { status, cancel: end } = draw("j1", { history: true, cancel });
    assert.equal(status, "pending");
    assert.equal(await end(), "j1 cancelled");
    assert.deepEqual([...new Set(of("schema").flat())], [schema]);
    assert.deepEqual(of("eq")[0], ["id", "j1"]);
    assert.deepEqual(of("gt")[0], ["seq", 0], "with its history");
    draw.leave();
  }
});

test("a job is cancelled by its function where a page says nothing else", async () => {
  const { client, of } = clientOf([{ id: "j1", status: "pending", last_seq: 0 }]);
  const draw = drawing((hooks) => makeUseJobStatus(hooks, client));
  draw({ jobId: "j1" }).cancel();
  await leap(100, 100);

  const calls = of("rpc").filter(([name]) => name === "cancel_job");
  assert.deepEqual(calls, [["cancel_job", { p_job_id: "j1" }]]);
  draw.leave();

  const own = drawing((hooks) => makeUseJobStatus(hooks, client));
  own({ jobId: "j1", cancel: async (id) => `${id} cancelled` });
  assert.equal(await own({ jobId: "j1" }).cancel(), "j1 cancelled", "as it began");
  own.leave();
});

test("what could not be enqueued is a problem, and no job", async () => {
  const { client } = clientOf(null, { message: "no", code: "PT422", hint: "payload_invalid" });
  const draw = drawing((hooks) => hooksOf(hooks, client, { workspace_id: "acme" }).useEnqueue);

  assert.equal(await draw("mail").enqueue({}), null);

  const { problem, isEnqueuing, job } = draw("mail");
  assert.deepEqual([problem.code, isEnqueuing, job], ["payload_invalid", false, null]);
  const again = draw("mail").enqueue({});
  assert.equal(draw("mail").problem, null, "it is of the call before");
  await again;
});

test("React's own hooks are made for a client, with its defaults", async () => {
  const face = new URL("../../../infra/console/npm/", import.meta.url);
  const named = ["useState", "useEffect", "useRef"];
  const code = named.map((name) => `export const ${name} = (...of) => react.${name}(...of);`);
  const react = `data:text/javascript,${code.join("")}`;
  const jobs = new URL("../lib/jobs/", face).href;
  const from = (name) => (name === "react" ? react : name.replace(/^\.\/jobs\//, jobs));
  registerHooks({ resolve: (name, context, next) => next(from(name), context) });
  const { makeHooks } = await import(new URL("react.js", face));
  const { client, of } = clientOf({ job: { id: "j1" } });
  const defaults = { workspace_id: "acme", schema: "work" };
  const draw = drawing((hooks) => {
    globalThis.react = hooks;
    return makeHooks(client, defaults).useEnqueue;
  });

  await draw("mail").enqueue({});

  assert.equal(of("rpc")[0][1].p_workspace_id, "acme");
  assert.deepEqual(of("schema")[0], ["work"]);
});
