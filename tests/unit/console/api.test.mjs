// What the console makes of the API's and the Data API's answers: the module itself, in what a page
// gives it, before a server of the test's own.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { registerHooks } from "node:module";
import { after, before, test } from "node:test";
import { createClient } from "@supabase/supabase-js";
import * as preact from "preact";
import * as preactHooks from "preact/hooks";

const BUSY = { status: 429, body: JSON.stringify({ code: "job_busy", error: "call again" }) };
const answers = []; // what comes next; without any an empty list
const asked = [];
let server;
let api;

const configuration = (supabaseUrl) => JSON.stringify({ supabaseUrl, supabaseKey: "key" });

/** The page's own address, storage and libraries. */
async function load(origin) {
  const session = {
    access_token: "token",
    refresh_token: "again",
    token_type: "bearer",
    expires_in: 3600,
    expires_at: Math.floor(Date.now() / 1000) + 3600,
    user: { id: "ada", email: "ada@acme.test" },
  };
  const kept = new Map([["minutehand.session", JSON.stringify(session)]]);
  const storage = {
    getItem: (name) => kept.get(name) ?? null,
    setItem: (name, value) => kept.set(name, value),
    removeItem: (name) => kept.delete(name),
  };
  const { fetch } = globalThis;
  const made = (url, key, { auth, ...options }) =>
    createClient(url, key, { ...options, auth: { ...auth, storage } });
  Object.assign(globalThis, { preact, preactHooks, supabase: { createClient: made } });
  Object.assign(globalThis, { fetch: (url, init) => fetch(new URL(url, origin), init) });
  for (const [name, value] of Object.entries({ location: { origin }, localStorage: storage }))
    Object.defineProperty(globalThis, name, { value });
  registerHooks({
    resolve: (name, context, next) => next(name.startsWith("/vendor/htm/") ? "htm" : name, context),
  });
  return import("../../../infra/console/api.js");
}

before(async () => {
  server = createServer((request, response) => {
    const origin = `http://${request.headers.host}`;
    if (request.url === "/config.json") return response.end(configuration(origin));
    const isOfTest = /\/(api|rpc)\//.test(request.url);
    if (isOfTest) asked.push(request.url);
    const { status = 200, body = "[]" } = (isOfTest && answers.shift()) || {};
    response.writeHead(status, { "Content-Type": "application/json", "Retry-After": "1" });
    return response.end(body);
  });
  await new Promise((then) => server.listen(0, "127.0.0.1", then));
  api = await load(`http://127.0.0.1:${server.address().port}`);
  await api.start();
});

after(() => {
  server.close();
  server.closeAllConnections();
});

test("a change is repeated while another transaction changes the job", async () => {
  asked.length = 0;
  answers.push(BUSY, BUSY, { body: '{"id": "j"}' });
  assert.deepEqual(await api.jobs.cancel("j"), { id: "j" });
  assert.deepEqual(asked, Array(3).fill("/api/jobs/j/cancel"));
});

test("any other refusal is passed on at once, with what it says of a wait", async () => {
  asked.length = 0;
  answers.push({ status: 429, body: JSON.stringify({ code: "rate_limited", error: "later" }) });
  await assert.rejects(api.jobs.retry("j"), { code: "rate_limited", status: 429, retryAfter: 1 });
  assert.equal(asked.length, 1);
});

for (const [name, body] of Object.entries({ null: "null", nothing: "", "half of one": '{"jo' }))
  test(`${name} is no answer of the Data API`, async () => {
    answers.push({ body });
    await assert.rejects(api.rpc("list_jobs"), { status: 0, code: "unreachable" });
  });
