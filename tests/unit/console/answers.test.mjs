// Tests how the client handles invalid responses and values that no database can store, with the
// real supabase-js and a server of the test.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, beforeEach, test } from "node:test";
import { createClient } from "@supabase/supabase-js";
import {
  cancel,
  emitEvent,
  enqueue,
  enqueueMany,
  watchJob,
} from "../../../infra/console/lib/jobs.js";
import { QueueError } from "../../../infra/console/lib/jobs/client.js";
import { skipPauses } from "./clock.mjs";

const ID = "00000000-0000-7000-8000-000000000001";
const JOB = { id: ID, status: "completed", last_seq: 1, finished_at: "2026-11-20T08:00:00Z" };
const to = { workspace_id: "w", schema: "public" };
const json = (value, status) => ({ status, body: JSON.stringify(value) });
const answers = []; // next responses. If it is empty, the server returns the ended job.
const asked = [];
let server;
let client;

skipPauses(1500); // pauses between two tries

before(async () => {
  server = createServer((request, response) => {
    const name = request.url.split("/rpc/")[1];
    // the watch of an earlier test may still request its socket and topic
    const isOfSocket = name === undefined || name === "follow_topic";
    // a watch that met an outage may read once more after its test has ended
    const schema = request.headers["content-profile"];
    const isNext = answers.length > 0 && (answers[0].schema ?? schema) === schema;
    if (isOfSocket || (name !== "get_job" && !isNext)) return response.end("null");
    asked.push(request.url);
    const next = isNext ? answers.shift() : {};
    const { status = 200, body = JSON.stringify(JOB), meanwhile } = next;
    meanwhile?.();
    response.writeHead(status, { "Content-Type": "application/json" });
    return response.end(body);
  });
  await new Promise((then) => server.listen(0, "127.0.0.1", then));
  client = createClient(`http://127.0.0.1:${server.address().port}`, "key", {
    accessToken: async () => null,
  });
});

beforeEach(() => (asked.length = 0));

after(() => {
  server.close();
  server.closeAllConnections(); // supabase-js keeps connections open
});

const NONE = {
  "an empty 200": { body: "" },
  "a 204": { status: 204, body: "" },
  null: { body: "null" },
  "half a response": { body: JSON.stringify(JOB).slice(0, 20) },
  "a response of another call": { body: '{"hello": 1}' },
  "a page": { body: "<html>maintenance</html>" },
};

for (const [name, none] of Object.entries(NONE)) {
  test(`a read repeats after ${name}`, async () => {
    const schema = `of ${name}`; // other tests have other answers
    answers.push({ ...none, schema });
    const states = [];
    const watch = watchJob(client, ID, {
      schema,
      onChange: ({ freshness, problem }) => states.push([freshness, problem?.status]),
    });
    assert.equal((await watch.ended).status, "completed");
    watch.close();
    assert.deepEqual(
      states.find(([, status]) => status !== undefined),
      ["offline", 0],
    );
  });

  test(`a change rejects ${name} and is not repeated`, async () => {
    answers.push({ ...none, schema: to.schema });
    const refused = { name: "QueueError", status: 0, reachable: false };
    await assert.rejects(enqueue(client, "t", {}, to), refused);
    // count only enqueues, because the watch of another test may still read
    assert.equal(asked.filter((url) => url.endsWith("/enqueue_job")).length, 1);
  });
}

test("a function that the database lacks is no missing job", async () => {
  for (const code of ["42883", "PGRST202", "PT404"]) {
    const error = new QueueError({ code, message: "no function", hint: "job_not_found" }, 404);
    assert.equal(error.isRefusal, code === "PT404");
  }
});

test("reads continue if the page may not open a socket", async () => {
  class Forbidden {
    constructor() {
      throw new Error("SecurityError");
    }
  }
  const options = { accessToken: async () => null, realtime: { transport: Forbidden } };
  const deaf = createClient(client.supabaseUrl, "key", options);
  answers.push(json({ ...JOB, status: "processing" }));
  const watch = watchJob(deaf, ID, { schema: "public", pollingInterval: 100 });
  assert.equal((await watch.ended).status, "completed");
  watch.close();
});

test("output after a message that overtakes a read is read, too", async () => {
  const page = (from, next, text) => ({ stream: "reply", attempt: 1, from, next, text });
  const first = page(0, 5, "first");
  const row = { ...JOB, streams: { reply: { attempt: 1, next: 10 } } };
  let said;
  const watch = watchJob(client, ID, { schema: "public", onOutput: ({ reply }) => (said = reply) });
  const overtakes = () => watch.receive({ job_id: ID, type: "job.output", data: first });
  const read = (piece) => json({ status: "completed", streams: [piece] });
  answers.push(json(row));
  answers.push({ ...read(first), meanwhile: overtakes }, read(page(5, 10, " last")));
  await watch.ended;
  watch.close();
  assert.equal(said, "first last");
});

const busy = (hint, more = {}) => {
  const details = JSON.stringify({ retry_after_seconds: 1, ...more });
  return json({ code: "PT429", message: "call again", details, hint }, 429);
};
const LOCKED = busy("job_busy");
/** Responses to a serialization failure, a deadlock and a lock timeout. */
const CLASHES = ["40001", "40P01", "55P03"].map((code) =>
  json({ code, message: "could not lock" }, 500),
);

for (const [name, ...refusals] of [
  ["another transaction changes the job", LOCKED, LOCKED],
  ["the database meets a clash of locks", ...CLASHES],
  ["another change of the person runs", busy("rate_limited", { limit: "calls_at_once" })],
])
  test(`a change is repeated while ${name}`, async () => {
    answers.push(...refusals, json(JOB));
    assert.deepEqual(await cancel(client, ID, to), JOB);
    assert.equal(asked.length, refusals.length + 1);
  });

test("a change of a job that stays locked fails after a few tries", async () => {
  answers.push(...Array(50).fill(LOCKED));
  await assert.rejects(cancel(client, ID, to), { code: "job_busy" });
  assert.ok(asked.length > 2 && answers.length > 0);
  answers.length = 0;
});

test("an error of a Data API without hints has the code that its message contains", async () => {
  answers.push(json({ code: "PT409", message: "it has ended (job_ended) [since today]" }, 409));
  const wanted = {
    code: "job_ended",
    message: "it has ended",
    details: "since today",
    status: 409,
  };
  await assert.rejects(cancel(client, ID, to), wanted);
});

test("a watch of an invalid id ends", async () => {
  answers.push(json({ code: "22P02", message: "no uuid" }, 400));
  const watch = watchJob(client, ID, { schema: "public" });
  await assert.rejects(watch.ended, { name: "JobGone" });
  watch.close();
});

test("a rate-limited change is not repeated", async () => {
  answers.push(busy("rate_limited"), LOCKED);
  await assert.rejects(cancel(client, ID, to), { code: "rate_limited" });
  assert.equal(answers.pop(), LOCKED);
});

const circle = {};
circle.itself = circle;
const ODD = {
  "a circle": circle,
  "a bigint": { n: 1n },
  NUL: { name: "a\u0000b" },
  "a NUL in a name": { "a\u0000b": 1 },
  "half of a surrogate pair": { name: "a\ud800b" },
};

for (const [name, payload] of Object.entries(ODD))
  test(`the client rejects a payload with ${name}`, async () => {
    const refused = { name: "QueueError", code: "payload_invalid", status: 400, reachable: true };
    await assert.rejects(enqueue(client, "t", payload, to), refused);
    await assert.rejects(enqueueMany(client, [{ job_type: "t", payload }], to), refused);
    await assert.rejects(emitEvent(client, "paid", payload, to), refused);
    assert.deepEqual(asked, []);
  });

test("a whole surrogate pair is sent", async () => {
  answers.push(json({ job: JOB, created: true }));
  assert.equal((await enqueue(client, "t", { name: "🙂\\u0000" }, to)).created, true);
});
