// Tests which jobs the AI SDK's transport creates and cancels, with the real supabase-js.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { createClient } from "@supabase/supabase-js";
import { build } from "esbuild";

const CONSOLE = `${import.meta.dirname}/../../../infra/console`;
/** Bundle the files as the npm package has them. These tests read no messages with the AI SDK. */
const packed = {
  name: "packed",
  setup(bundler) {
    const filter = /^\.\/jobs\//;
    bundler.onResolve({ filter }, ({ path }) => ({ path: `${CONSOLE}/lib/${path}` }));
    bundler.onResolve({ filter: /^ai$/ }, () => ({ path: "ai", namespace: "ai" }));
    bundler.onLoad({ filter: /./, namespace: "ai" }, () => ({
      contents: "export const readUIMessageStream = null;",
    }));
  },
};
const bundle = await build({
  entryPoints: [`${CONSOLE}/npm/ai-sdk.js`],
  bundle: true,
  format: "esm",
  write: false,
  plugins: [packed],
});
const { closeQuestions, JobChatTransport, textOf } = await import(
  `data:text/javascript,${encodeURIComponent(bundle.outputFiles[0].text)}`
);

const question = { id: "m", role: "user", parts: [{ type: "text", text: "Question" }] };
const RUNNING = { id: "j", status: "processing", last_seq: 0, payload: {} };
const reply = { stream: "reply", attempt: 1, from: 0, next: 2, text: "Hi" };
const OVER = { ...RUNNING, status: "completed", streams: { reply } };
let job; // the chat's newest job, or null
let isAway; // whether calls get no response
const asked = [];

const responses = () => ({
  enqueue_job: { job },
  list_jobs: { jobs: job ? [job] : [] },
  job_output: { status: "completed", streams: [reply] },
});
const fetch = async (url, { body }) => {
  const name = String(url).split("/rpc/")[1];
  asked.push([name, JSON.parse(body ?? null)]);
  return Response.json(isAway ? null : (responses()[name] ?? job));
};
const client = createClient("http://database", "key", {
  accessToken: async () => null,
  global: { fetch },
});
const callsOf = (name) => asked.filter(([each]) => each === name).map(([, values]) => values);
const turn = () => new Promise((then) => setTimeout(then));

let transport;
beforeEach(() => {
  asked.length = 0;
  job = RUNNING;
  isAway = false;
  transport = new JobChatTransport(client, "reply", { workspace_id: "w" });
});

const send = (options) =>
  transport.sendMessages({
    chatId: "chat",
    messages: [question],
    trigger: "submit-message",
    ...options,
  });
const resume = (options) => transport.reconnectToStream({ chatId: "chat", ...options });

for (const [what, options, ...keys] of [
  ["a new message", {}, "chat:m", "chat:m"],
  ["an edited message", { messageId: "m" }, undefined],
  ["a regenerated reply", { trigger: "regenerate-message" }, undefined],
])
  test(`${what} without a response is sent ${keys.length} times`, async () => {
    isAway = true;
    await assert.rejects(send(options), { status: 0 });
    const sent = callsOf("enqueue_job").map(({ p_options: each }) => each.idempotency_key);
    assert.deepEqual(sent, keys);
  });

const ENDS = [
  ["stops", ["j"], ({ abort }) => abort()],
  ["resumes again", [], ({ abort }) => (abort(), void resume())],
  ["closes the stream", [], ({ stream }) => stream.cancel()],
];

for (const begin of [send, resume])
  for (const [end, cancelled, leave] of ENDS)
    test(`a chat that ${end} after ${begin.name} cancels ${cancelled.length} jobs`, async () => {
      const controller = new AbortController();
      const stream = await begin({ abortSignal: controller.signal });
      await leave({ stream, abort: () => controller.abort() });
      for (let n = 0; n < 3; n += 1) await turn();
      assert.deepEqual(
        callsOf("cancel_job").map(({ p_job_id: id }) => id),
        cancelled,
      );
    });

const ago = (ms) => new Date(Date.now() - ms).toISOString();

for (const [what, row, isRead] of [
  ["no job", null, false],
  ["an unfinished reply", RUNNING, true],
  ["a new reply", { ...OVER, finished_at: ago(50_000) }, true],
  ["a new job without output", { ...OVER, finished_at: ago(50_000), streams: {} }, false],
  ["an old reply", { ...OVER, finished_at: ago(70_000) }, false],
  ["an old error", { ...OVER, finished_at: ago(70_000), status: "failed" }, true],
])
  test(`a chat that resumes with ${what} reads ${isRead ? "it" : "nothing"}`, async () => {
    job = row;
    assert.equal((await resume()) !== null, isRead);
  });

test("a chat reads each reply to its end once", async () => {
  job = { ...OVER, finished_at: ago(0) };
  const chunks = [];
  for await (const chunk of await resume()) chunks.push(chunk);
  assert.deepEqual(chunks.map(({ delta }) => delta).filter(Boolean), ["Hi"]);
  assert.equal(chunks.at(-1).finishReason, "stop");
  assert.equal(await resume(), null);
});

test("a chat that stops before its job exists cancels the job and reads nothing", async () => {
  const controller = new AbortController();
  const sent = send({ abortSignal: controller.signal });
  controller.abort();
  const stream = await sent;
  await assert.rejects(async () => {
    for await (const { type } of stream) assert.match(type, /^start/);
  }, /abort/);
  await turn();
  assert.equal(callsOf("cancel_job").length, 1);
});

test("a message with a file is not sent without the option `payload`", async () => {
  const messages = [{ ...question, parts: [...question.parts, { type: "file" }] }];
  await assert.rejects(send({ messages }), /needs the option `payload`/);
  assert.deepEqual(asked, []);
});

test("the text of a message leaves out earlier attempts of the same job", () => {
  const part = ([text, id, attempt]) => {
    const providerMetadata = id && { minutehand: { job: id, attempt } };
    return { type: "text", text, providerMetadata };
  };
  const texts = [["mine "], ["old", "j", 1], ["new ", "j", 2], ["text ", "j", 2], ["more", "k", 1]];
  assert.equal(textOf({ parts: texts.map(part) }), "mine new text more");
});

test("after a stop, open questions are denied, and approved tools have failed", () => {
  const parts = [
    { state: "approval-requested" },
    { state: "approval-responded", approval: { approved: false } },
    { state: "approval-responded", approval: { approved: true } },
    { state: "output-available" },
  ];
  const [{ parts: closed }] = closeQuestions([{ parts }]);
  assert.deepEqual(
    closed.map(({ state }) => state),
    ["output-denied", "output-denied", "output-error", "output-available"],
  );
});
