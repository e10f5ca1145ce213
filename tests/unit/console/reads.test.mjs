// What leaves a page for the Data API, through a real supabase-js client, and what a refusal becomes.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createClient } from "@supabase/supabase-js";
import { enqueue } from "../../../infra/console/lib/jobs/enqueue.js";
import * as reads from "../../../infra/console/lib/jobs/reads.js";
import { watchJob, watchWorkspace } from "../../../infra/console/lib/jobs/watch.js";
import { JobWatch } from "../../../infra/console/lib/jobs/watch-job.js";
import { watchJobs, watchRow } from "../../../infra/console/lib/jobs/watch-jobs.js";
import { watchSession } from "../../../infra/console/lib/jobs/watch-session.js";
import { until } from "./world.mjs";

const { QueueError, readsOf, readsOfSession, setSchema } = reads;

/** A client without a socket, whose every read is answered alike; `asked` are `method schema what`, and bodies. */
function clientOf(answer = [], status = 200) {
  const asked = [];
  async function fetch(address, { method, headers, body, signal }) {
    const { pathname, search } = new URL(address);
    const schema = headers.get("Content-Profile") ?? headers.get("Accept-Profile");
    const what = decodeURIComponent(pathname.replace("/rest/v1/", "") + search);
    asked.push([`${method} ${schema} ${what}`, ...(body ? [JSON.parse(body)] : [])]);
    assert.ok(signal ?? method === "POST", "a read without an end");
    if (status === 0) throw new TypeError("fetch failed");
    return new Response(JSON.stringify(answer), { status });
  }
  const client = createClient("http://data.test", "key", { global: { fetch } });
  client.channel = (topic) => (asked.push([topic]), { on() {}, subscribe() {} });
  client.removeChannel = async () => {};
  return { client, asked };
}

const GUEST = "guest_7";
const asGuest = (client) => readsOfSession(client, GUEST, "work");
const rows = [{ id: "j2" }, { id: "j1" }];
const EVENTS =
  "select=job_id,seq,type,data,created_at&job_id=eq.j1&seq=gt.4&order=seq.asc&limit=500";
const page = { p_limit: 500 };
const guest = { p_session_id: GUEST };

for (const [name, read, given, expected, ...request] of [
  [
    "a job",
    (of) => readsOf(of).job("j1"),
    rows,
    rows[0],
    "GET minutehand jobs?select=*&id=eq.j1&limit=1",
  ],
  [
    "no job",
    (of) => readsOf(of).job("j1"),
    [],
    null,
    "GET minutehand jobs?select=*&id=eq.j1&limit=1",
  ],
  [
    "a job's events",
    (of) => readsOf(of, "work").events("j1", 4),
    rows,
    rows,
    `GET work job_events?${EVENTS}`,
  ],
  [
    "a session's jobs",
    (of) => readsOfSession(of, "chat-7", "work").sessionJobs("chat-7"),
    rows,
    rows,
    "GET work jobs?select=*&session_id=eq.chat-7&order=created_at.desc&limit=200",
  ],
  [
    "a session that is called after guests",
    (of) => readsOfSession(of, "guests-7", "work").sessionJobs("guests-7"),
    rows,
    rows,
    "GET work jobs?select=*&session_id=eq.guests-7&order=created_at.desc&limit=200",
  ],
  [
    "a workspace's feed",
    (of) => readsOf(of).feed("acme", "c1"),
    { cursor: "c2" },
    { cursor: "c2" },
    "POST minutehand rpc/event_feed",
    { p_workspace_id: "acme", p_cursor: "c1", ...page },
  ],
  [
    "a guest's jobs",
    (of) => asGuest(of).sessionJobs(),
    { jobs: rows },
    rows,
    "POST work rpc/guest_session_jobs",
    guest,
  ],
  [
    "a guest's job",
    (of) => asGuest(of).job("j1"),
    { jobs: rows },
    rows[1],
    "POST work rpc/guest_session_jobs",
    guest,
  ],
  [
    "no guest's job",
    (of) => asGuest(of).job("j3"),
    { jobs: rows },
    null,
    "POST work rpc/guest_session_jobs",
    guest,
  ],
  [
    "a guest's events",
    (of) => asGuest(of).events("j1", 4),
    { events: rows },
    rows,
    "POST work rpc/guest_session_events",
    { ...guest, p_job_id: "j1", p_after: 4, ...page },
  ],
  [
    "a new job",
    (of) => enqueue(of, "mail", { to: "ada" }, { workspace_id: "acme", schema: "work", tag: "a" }),
    { job: rows[0] },
    { job: rows[0] },
    "POST work rpc/enqueue_job",
    {
      p_workspace_id: "acme",
      p_job_type: "mail",
      p_payload: { to: "ada" },
      p_options: { tag: "a" },
    },
  ],
])
  test(`asked of the Data API: ${name}`, async () => {
    const { client, asked } = clientOf(given);

    assert.deepEqual(await read(client), expected);
    assert.deepEqual(asked, [request]);
  });

for (const [name, start, topic, first, values] of [
  ["a job", (of) => watchJob(of, "j1"), "job:j1", "GET minutehand jobs?select=*&id=eq.j1&limit=1"],
  [
    "a job's row",
    (of) => watchRow(of, "j1", { schema: "work" }),
    "job:j1",
    "POST work rpc/get_job",
    { p_job_id: "j1" },
  ],
  [
    "a guest's job",
    (of) => watchJob(of, "j1", { guestSession: GUEST }),
    "job:j1",
    "POST minutehand rpc/guest_session_jobs",
    guest,
  ],
  [
    "a session",
    (of) => watchSession(of, GUEST),
    `session:${GUEST}`,
    "POST minutehand rpc/guest_session_jobs",
    guest,
  ],
  [
    "a workspace",
    (of) => watchWorkspace(of, "acme", { schema: "work" }),
    "workspace:acme",
    "POST work rpc/event_feed",
    { p_workspace_id: "acme", p_cursor: null, ...page },
  ],
  [
    "a row",
    (of) => watchRow(of, "j1", {}),
    "job:j1",
    "POST minutehand rpc/get_job",
    { p_job_id: "j1" },
  ],
  [
    "a list",
    (of) => watchJobs(of, "acme", { filter: { tag: "a", workspace_id: "other" } }),
    "workspace:acme",
    "POST minutehand rpc/list_jobs",
    { p_filter: { tag: "a", workspace_id: "acme" }, p_limit: 20 },
  ],
])
  test(`a watch begins with a read, on its topic: ${name}`, async () => {
    const { client, asked } = clientOf();
    const watch = start(client);
    await until(() => asked.some(([what]) => what === topic), "its topic");
    await watch.refresh();
    watch.close();

    const begins = asked.find(([what]) => what.includes(" "));
    assert.deepEqual(begins, values ? [first, values] : [first]);
  });

test("a job is cancelled by its function, and read after that", async () => {
  const { client, asked } = clientOf();
  const topics = { join() {} };
  await new JobWatch(client, readsOf(client), topics, "j1", { schema: "work" }).cancel();

  const [cancelled, read] = asked;
  assert.deepEqual(cancelled, ["POST work rpc/cancel_job", { p_job_id: "j1" }]);
  assert.match(read[0], /^GET minutehand jobs/);
});

test("a client's schema is said once, and a call's own goes before it", async () => {
  const { client, asked } = clientOf();
  setSchema(client, "work");

  await readsOf(client).job("j1");
  await readsOf(client, "other").job("j1");

  const schemas = asked.map(([what]) => what.split(" ")[1]);
  assert.deepEqual(schemas, ["work", "other"]);
});

for (const [name, given, status, expected] of [
  [
    "our word",
    { code: "PT422", hint: "payload_invalid", message: "no", details: "d" },
    422,
    ["payload_invalid", "no", "d", true],
  ],
  [
    "the Data API's code",
    { code: "42501", hint: "grant it", message: "no" },
    403,
    ["42501", "no", null, true],
  ],
  ["ours without a word", { code: "PT404", message: "no" }, 404, ["PT404", "no", null, true]],
  ["the first refusal", {}, 400, ["", "the Data API did not answer", null, true]],
  ["a failing server", { message: "away" }, 500, ["", "away", null, false]],
  ["no answer", {}, undefined, ["", "the Data API did not answer", null, false]],
])
  test(`a refusal has a stable code, and says whether a server answered: ${name}`, () => {
    const { code, message, details, reachable, status: said } = new QueueError(given, status);

    assert.deepEqual([code, message, details, reachable], expected);
    assert.equal(said, status ?? 0);
  });

for (const [status, reachable] of [
  [503, false],
  [0, false],
  [403, true],
])
  test(`a read that fails is not repeated behind the watch's back: ${status}`, async () => {
    const { client, asked } = clientOf({ message: "no" }, status);

    await assert.rejects(readsOf(client).job("j1"), { name: "QueueError", status, reachable });
    assert.equal(asked.length, 1);
  });

test("a read ends after ten seconds, also through a client that repeats nothing by itself", async (t) => {
  const timeouts = t.mock.method(AbortSignal, "timeout").mock;
  const query = { abortSignal: async (signal) => ({ data: signal }) };
  const client = { schema: () => ({ rpc: () => query }) };

  const signal = await reads.call(client, undefined, "get_job", {});

  assert.deepEqual([signal, timeouts.calls[0].arguments], [timeouts.calls[0].result, [10_000]]);
});
