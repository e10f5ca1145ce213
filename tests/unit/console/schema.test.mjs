// Where jobs are looked for: the schema of the call, else of the client, else the install's own.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import test from "node:test";

import { createClient } from "@supabase/supabase-js";

import { enqueue, QueueError, setSchema } from "../../../infra/console/lib/jobs.js";
import { readsOf } from "../../../infra/console/lib/jobs/reads.js";

/** A server that speaks the Data API's format: answers in order, and what was asked. */
async function serving(answers, use) {
  const asked = [];
  const server = createServer((request, response) => {
    asked.push({
      path: request.url,
      schema: request.headers["content-profile"] ?? request.headers["accept-profile"],
    });
    const { status = 200, body } = answers.shift();
    response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(body));
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  try {
    await use(
      createClient(`http://127.0.0.1:${server.address().port}`, "key", {
        auth: { persistSession: false },
      }),
    );
  } finally {
    server.closeAllConnections();
    server.close();
  }
  return asked;
}

test("the schema is the call's, else the client's, else minutehand", async () => {
  const answers = Array.from({ length: 4 }, () => ({ body: [] }));
  const asked = await serving(answers, async (client) => {
    await readsOf(client).job("id");
    setSchema(client, "work");
    await readsOf(client).job("id");
    await readsOf(client, "public").events("id", 0);
    await enqueue(client, "t", {}, { workspace_id: "w", schema: "shop" });
  });

  assert.deepEqual(
    asked.map(({ schema }) => schema),
    ["minutehand", "work", "public", "shop"],
  );
});

test("a refusal is an error with the queue's stable word", async () => {
  const body = {
    code: "PT422",
    hint: "payload_invalid",
    message: "payload.n is required",
    details: "payload.n",
  };
  await serving([{ status: 422, body }], async (client) => {
    await assert.rejects(enqueue(client, "t", {}, { workspace_id: "w" }), (error) => {
      assert.ok(error instanceof QueueError);
      assert.deepEqual(
        [error.code, error.status, error.details, error.reachable],
        ["payload_invalid", 422, "payload.n", true],
      );
      return true;
    });
  });
});

test("a project that is unavailable is not taken for one that refused", async () => {
  const client = createClient("http://127.0.0.1:1", "key", { auth: { persistSession: false } });

  await assert.rejects(
    readsOf(client).job("id"),
    (error) => error instanceof QueueError && !error.reachable,
  );
});
