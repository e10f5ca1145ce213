// Uploads: how a file goes to storage, and what becomes of those of an earlier page load.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { afterEach, mock, test } from "node:test";
import { uploadsAt } from "../../../infra/console/lib/uploads.js";
import { leap, leapUntil, until } from "./world.mjs";

afterEach(() => mock.timers.reset());

const PLACE = "minutehand.uploads /u ";
const kept = (id, whose = "ada", sums = { 1: btoa("x"), 2: btoa("y") }) => ({
  ...{ id, whose, sums, name: "a.mp4", title: "A", size: 20, modified: 1 },
});

/** Uploads that this browser kept, and a server by what has not arrived of each. */
function uploadsOf(all, missing, onEnd = null) {
  globalThis.localStorage = browserStorage();
  localStorage.setItem(`${PLACE}torn`, '{"id');
  localStorage.setItem(`${PLACE}old`, JSON.stringify({ ...kept("old"), title: null }));
  localStorage.setItem("minutehand.uploads /other a", JSON.stringify(kept("elsewhere")));
  for (const one of all) localStorage.setItem(PLACE + one.id, JSON.stringify(one));
  const asked = [];
  const request = async (method, url, { body }) => {
    const id = decodeURIComponent(url.split("/")[2]);
    asked.push(`${method} ${url}`);
    if (!missing[id]) throw Object.assign(new Error("gone"), { status: 404 });
    if (method === "POST") return { id, checksum: body.checksum };
    return { id, size_bytes: 20, part_bytes: 10, part_count: 2, missing: missing[id] };
  };
  const ended = [];
  const uploads = uploadsAt("/u", { request, onEnd: onEnd ?? ((upload) => ended.push(upload)) });
  return { uploads, asked, ended };
}

/** Like a browser's: its own properties are what it holds. */
function browserStorage() {
  const methods = {
    setItem: (name, text) => (storage[name] = text),
    removeItem: (name) => delete storage[name],
  };
  const storage = Object.create(methods);
  return storage;
}
const left = () =>
  Object.keys(localStorage)
    .filter((name) => name.startsWith(PLACE) && name !== `${PLACE}old`)
    .map((name) => name.slice(PLACE.length));

test("what has arrived is completed by its own person, and by no other of this browser", async () => {
  const all = [kept("whole"), kept("other", "eve"), kept("half"), kept("gone")];
  all.push(kept("un/known", "ada", { 1: btoa("x") }));
  const server = { whole: [], other: [], half: [2], "un/known": [] };
  const { uploads, asked, ended } = uploadsOf(all, server);
  const known = uploads.get().map(({ id }) => id);
  assert.deepEqual(known, ["whole", "other", "half", "gone", "un/known"], "what is whole");

  await uploads.recall("ada");

  const own = ["GET /u/gone", "GET /u/half", "GET /u/un%2Fknown", "GET /u/whole"];
  assert.deepEqual(asked.sort(), [...own, "POST /u/whole/complete"]);
  assert.match(ended[0].checksum, /-2$/);
  assert.deepEqual([ended.length, left()], [1, ["torn", "other", "half", "un/known"]]);
  assert.equal(uploads.get().find(({ id }) => id === "half").sent, 10);
  await uploads.abort("un/known");
  assert.equal(asked.at(-1), "DELETE /u/un%2Fknown");
});

test("a page's error at the end of an upload is the page's to see", async (t) => {
  const errors = [];
  const run = (task) => {
    try {
      task();
    } catch ({ message }) {
      errors.push(message);
    }
  };
  t.mock.method(globalThis, "queueMicrotask", run);
  const onEnd = () => {
    throw new Error("drawing");
  };
  const { uploads } = uploadsOf([kept("whole")], { whole: [] }, onEnd);

  await uploads.recall("ada");

  assert.deepEqual([errors, uploads.get(), left()], [["drawing"], [], ["torn"]]);
});

test("an upload that is given up while the server is asked about it is not completed", async () => {
  globalThis.localStorage = browserStorage();
  localStorage.setItem(`${PLACE}whole`, JSON.stringify(kept("whole")));
  const asked = [];
  let answer;
  const found = new Promise((resolve) => (answer = resolve));
  const request = async (method) => (asked.push(method), method === "GET" ? found : null);
  const uploads = uploadsAt("/u", { request });
  const recalled = uploads.recall("ada");
  await uploads.abort("whole");
  answer({ size_bytes: 20, part_bytes: 10, part_count: 2, missing: [] });
  await recalled;

  assert.deepEqual([asked, uploads.get(), left()], [["GET", "DELETE"], [], []]);
});

test("another file than the one that was begun is refused", async () => {
  const { uploads } = uploadsOf([kept("half")], { half: [2] });
  const right = { name: "a.mp4", size: 20, lastModified: 1 };

  for (const other of [{ name: "b.mp4" }, { size: 21 }, { lastModified: 2 }])
    await assert.rejects(uploads.resume("half", { ...right, ...other }), /not the file/);
});

test("two tabs that upload at once keep both", async () => {
  globalThis.localStorage = browserStorage();
  const answer = async (method, url, { body }) => {
    if (method !== "POST") throw Object.assign(new Error("away"), { status: 500 });
    return { id: body.filename, title: body.filename };
  };
  const tabs = [uploadsAt("/u", { request: answer }), uploadsAt("/u", { request: answer })];

  for (const [nth, tab] of tabs.entries()) {
    await tab.begin({ name: `${nth}.mp4`, size: 20, lastModified: 1 }, {});
  }

  assert.deepEqual(left(), ["0.mp4", "1.mp4"]);
});

/** An upload of one part, begun here; the address of the part is given out when the test says so. */
async function begun() {
  globalThis.localStorage = browserStorage();
  const asked = [];
  let sign;
  const signed = new Promise((resolve) => (sign = () => resolve({ parts: [SIGNED] })));
  const request = async (method, url) => {
    asked.push(`${method} ${url}`);
    if (url.endsWith("/parts")) return signed;
    return { id: "a", title: "A", size_bytes: 3, part_bytes: 10, part_count: 1, missing: [1] };
  };
  const uploads = uploadsAt("/u", { request });
  await uploads.begin(new File(["abc"], "a.txt"), {});
  const isAsked = (call) => until(() => asked.includes(call), call);
  return { uploads, asked, sign, isAsked };
}
const SIGNED = { url: "http://storage.test/a", headers: {} };

test("what was paused and is resumed at once is sent again, and may be paused again", async () => {
  const part = { sent: 0, stopped: 0 };
  globalThis.XMLHttpRequest = class {
    upload = {};
    open() {}
    send = () => (part.sent += 1);
    abort = () => (part.stopped += 1);
  };
  const { uploads, asked, sign, isAsked } = await begun();
  await isAsked("POST /u/a/parts");

  uploads.pause("a");
  uploads.resume("a");
  await until(
    () => asked.filter((call) => call === "POST /u/a/parts").length === 2,
    "another part",
  );

  assert.equal(uploads.get()[0].state, "sending");
  sign();
  await until(() => part.sent > 0, "the part");
  uploads.pause("a");
  assert.deepEqual(part, { sent: 1, stopped: 1 });
});

test("a part whose address comes after the pause is not sent", async (t) => {
  madeUp(t);
  const sent = [];
  globalThis.XMLHttpRequest = class {
    upload = {};
    open = (_method, url) => sent.push(url);
    send() {}
    abort() {}
  };
  const { uploads, asked, sign } = await begun();
  const count = () => asked.filter((call) => call === "POST /u/a/parts").length;
  await leapUntil(() => count() === 1, "an address");

  uploads.pause("a");
  sign();
  await leap(60_000, 1000);

  assert.deepEqual([sent, uploads.get()[0].state, count()], [[], "paused", 1]);
});

/** A server that makes one upload of five parts, and its storage; `refuse` may answer instead of either. */
function sending({ memory } = {}) {
  globalThis.localStorage = Object.assign(browserStorage(), memory);
  const file = new File(["abcdefghijklmnopqrstuvwxy"], "a.txt", {
    type: "text/plain",
    lastModified: 7,
  });
  const server = {
    asked: [],
    bodies: [],
    stored: {},
    atOnce: 0,
    most: 0,
    stopped: 0,
    token: "token",
    ended: [],
    file,
    refuse() {},
  };
  const known = { id: "a", title: "A", size_bytes: 25, part_bytes: 6, part_count: 5 };
  globalThis.fetch = async (url, { method, headers, body, signal }) => {
    signal.throwIfAborted();
    server.asked.push(`${method} ${url}`);
    Object.assign(server, { headers, signal });
    if (body) server.bodies.push(JSON.parse(body));
    const refusal = server.refuse(`${method} ${url}`);
    if (refusal) return refusal;
    if (method === "DELETE") return new Response(null, { status: 204 });
    if (url.endsWith("/parts")) {
      const [{ part_number: number, checksum }] = JSON.parse(body).parts;
      return Response.json({ parts: [{ url: `s/${number}`, headers: { sum: checksum } }] });
    }
    const missing = [1, 2, 3, 4, 5].filter((number) => !(number in server.stored));
    return Response.json({ ...known, missing, done: url.endsWith("/complete") });
  };
  globalThis.XMLHttpRequest = class {
    upload = {};
    headers = {};
    open = (method, url) => Object.assign(this, { method, number: url.split("/")[1] });
    setRequestHeader = (name, value) => (this.headers[name] = value);
    abort = () => ((server.stopped += 1), this.onabort());
    async send(body) {
      server.most = Math.max(server.most, (server.atOnce += 1));
      const bytes = await body.text();
      // the address is signed for these bytes, and a request without a limit waits for ever
      assert.equal(this.headers.sum, sha(bytes).toString("base64"));
      assert.equal(this.timeout, 900_000);
      this.upload.onprogress({ loaded: Math.min(2, bytes.length) });
      const how = (await server.refuse(`${this.method} ${this.number}`)) ?? "onload";
      server.atOnce -= 1;
      this.status = typeof how === "number" ? how : 200;
      if (how === "onload") server.stored[this.number] = bytes;
      this[typeof how === "number" ? "onload" : how]();
    }
  };
  const onEnd = (...end) => server.ended.push(end);
  const uploads = uploadsAt("/u", { token: async () => server.token, onEnd });
  return { server, uploads, one: () => uploads.get()[0] };
}

/** Timers are the test's, and what takes a thread's time otherwise is done at once. */
function madeUp(t) {
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  t.mock.method(crypto.subtle, "digest", async (_, bytes) => sha(new Uint8Array(bytes)));
}
const pausesOf = (times) => times.slice(1).map((time, at) => Math.round((time - times[at]) / 1000));
const sha = (bytes) => createHash("sha256").update(bytes).digest();

test("a file goes to storage part by part, three at once, and is joined by what its parts sum to", async () => {
  const { server, uploads, one } = sending();
  const sent = [];
  const stop = uploads.subscribe(([upload]) => upload && sent.push(upload.sent));

  let go;
  const gate = new Promise((resolve) => (go = resolve));
  server.refuse = (call) => (call.startsWith("PUT") ? gate : undefined);
  await uploads.begin(server.file, { title: "A", workspace_id: "acme" }, "ada");
  assert.equal(one().whose, "ada");
  await until(() => server.atOnce === 3, "three");
  go();
  await until(() => server.ended.length === 1, "the end");

  const parts = ["abcdef", "ghijkl", "mnopqr", "stuvwx", "y"];
  const [first] = server.bodies;
  const named = { filename: "a.txt", content_type: "text/plain", size: 25 };
  assert.deepEqual(first, { ...named, title: "A", workspace_id: "acme" });
  assert.deepEqual([Object.values(server.stored), server.most], [parts, 3]);
  const checksum = `${sha(Buffer.concat(parts.map(sha))).toString("base64")}-5`;
  assert.deepEqual(server.bodies.at(-1), { checksum });
  const sums = server.bodies.flatMap((body) => body.parts ?? []).map((part) => part.checksum);
  assert.deepEqual(sums.sort(), parts.map((part) => sha(part).toString("base64")).sort());
  const json = { "Content-Type": "application/json" };
  assert.deepEqual(server.headers, { ...json, Authorization: "Bearer token" });
  server.token = "a fresh one";
  assert.deepEqual([server.ended[0][0].done, uploads.get(), left()], [true, [], []]);
  assert.deepEqual([sent[0], sent.includes(2), Math.max(...sent)], [0, true, 25]);
  const before = sent.length;
  stop();
  await uploads.begin(new File([""], ""), {});
  assert.deepEqual(server.bodies.at(-1), {
    ...named,
    filename: "file",
    content_type: "application/octet-stream",
    size: 0,
  });
  assert.equal(server.headers.Authorization, "Bearer a fresh one");
  assert.equal(sent.length, before);
  uploads.pause("a");
});

for (const [how, problem] of [
  [500, "Storage refused a part (500)"],
  ["onerror", "Storage cannot be reached"],
  ["ontimeout", "Storage did not answer in time"],
])
  test(`a part that does not arrive is sent five times, then the upload pauses: ${how}`, async (t) => {
    madeUp(t);
    const { server, uploads, one } = sending();
    const times = [];
    server.refuse = (call) => (call === "PUT 2" ? (times.push(Date.now()), how) : undefined);

    await uploads.begin(server.file, {});
    await leapUntil(() => one().state === "paused", "the pause");
    assert.deepEqual([one().problem, pausesOf(times)], [problem, [1, 2, 4, 8]]);
    const addresses = server.bodies.filter((body) => body.parts?.[0].part_number === 2);
    assert.equal(addresses.length, 5, "an address is used once");
    assert.equal(one().sent, 19);

    server.refuse = () => {};
    uploads.resume("a");
    assert.equal(one().problem, null);
    await leapUntil(() => server.ended.length === 1, "the end");
    assert.deepEqual(server.stored[2], "ghijkl");
  });

test("when one part gives the upload up, those on their way are stopped", async (t) => {
  madeUp(t);
  const { server, uploads, one } = sending();
  const hangs = (call) => call.startsWith("PUT") && new Promise(() => {});
  server.refuse = (call) => (call === "PUT 2" ? "onerror" : hangs(call));

  await uploads.begin(server.file, {});
  await leapUntil(() => one().state === "paused", "the pause");

  assert.equal(server.stopped, 2);
});

test("a call without an answer ends after twenty seconds, and is repeated", async (t) => {
  madeUp(t);
  t.mock.method(AbortSignal, "timeout", (ms) => {
    const end = new AbortController();
    setTimeout(() => end.abort(), ms);
    return end.signal;
  });
  const { server, uploads } = sending();
  const times = [];
  const silent = () =>
    new Promise((_, refuse) => server.signal.addEventListener("abort", () => refuse(new Error())));
  server.refuse = (call) =>
    call === "GET /u/a" && times.push(Date.now()) === 1 ? silent() : undefined;

  await uploads.begin(server.file, {});
  await leapUntil(() => server.ended.length === 1, "the end");

  assert.deepEqual(pausesOf(times), [21]);
});

for (const call of ["GET /u/a", "POST /u/a/parts"])
  test(`an upload that the server does not have is forgotten: ${call}`, async () => {
    const { server, uploads } = sending();
    server.refuse = (asked) => asked === call && new Response("", { status: 404 });

    await uploads.begin(server.file, {});
    await until(() => server.ended.length > 0, "the end");

    const [[upload, error]] = server.ended;
    assert.deepEqual([upload, server.ended.length, uploads.get(), left()], [null, 1, [], []]);
    assert.match(error.message, /expired or was aborted/);
  });

for (const [name, refusal, pauses, problem] of [
  [
    "asks to wait",
    () => new Response("{}", { status: 429, headers: { "Retry-After": "12" } }),
    Array(19).fill(12),
    "The server answered 429",
  ],
  [
    "is busy",
    () => new Response("<html>", { status: 503 }),
    [1, 2, 4, 8, 16, ...Array(14).fill(30)],
    "The server answered 503",
  ],
  [
    "is away",
    () => Promise.reject(new Error("x")),
    [1, 2, 4, 8, 16, ...Array(14).fill(30)],
    "The server cannot be reached",
  ],
  ["refuses", () => Response.json({ error: "no" }, { status: 409 }), [], "no"],
])
  test(`a server is asked again while that may help: ${name}`, async (t) => {
    madeUp(t);
    const { server, uploads, one } = sending();
    const times = [];
    server.refuse = (asked) => asked === "GET /u/a" && (times.push(Date.now()), refusal());

    await uploads.begin(server.file, {});
    await leapUntil(() => one().state === "paused", "the pause", 600_000, 100);

    assert.deepEqual([pausesOf(times), one().problem], [pauses, problem]);
  });

test("a pause ends the call that is under way, and says no problem", async (t) => {
  madeUp(t);
  const { server, uploads, one } = sending();
  server.refuse = (asked) => asked === "GET /u/a" && new Promise(() => {});
  await uploads.begin(server.file, {});
  await leapUntil(() => server.asked.includes("GET /u/a"), "the call");
  assert.equal(server.signal.aborted, false);
  uploads.pause("a");
  assert.deepEqual([server.signal.aborted, one().state, one().problem], [true, "paused", null]);
});

test("what is given up is thrown away at the server too, and kept where that fails", async () => {
  const { server, uploads } = sending();
  server.refuse = (asked) => asked.startsWith("GET") && new Promise(() => {});
  await uploads.begin(server.file, {});
  const detail = { code: "locked", detail: { a: 1 } };
  server.refuse = () =>
    Response.json({ error: "no", ...detail }, { status: 500, headers: { "Retry-After": "3" } });
  const error = await uploads.abort("a").catch((caught) => caught);
  const { message, status, code, retryAfter } = error;
  assert.deepEqual(
    [message, status, code, error.detail, retryAfter],
    ["no", 500, "locked", { a: 1 }, 3],
  );
  assert.deepEqual(left(), ["a"]);
  server.refuse = () => new Response("", { status: 500 });
  const plain = await uploads.abort("a").catch((caught) => caught);
  assert.deepEqual([plain.code, plain.detail, "retryAfter" in plain], [null, null, false]);

  server.refuse = () => {};
  await uploads.abort("a");
  assert.deepEqual([server.asked.at(-1), uploads.get(), left()], ["DELETE /u/a", [], []]);
  server.refuse = () => new Response("", { status: 404 });
  await uploads.abort("a");
});

test("after a reload the file is chosen again, and its missing parts are sent", async () => {
  const first = sending();
  first.server.refuse = (call) => (call === "PUT 5" ? "onerror" : undefined);
  await first.uploads.begin(first.server.file, {}, "ada");
  await until(() => Object.keys(first.server.stored).length === 4, "all but the last");
  await first.uploads.recall("ada");
  const looked = first.server.asked.filter((call) => call === "GET /u/a");
  assert.equal(looked.length, 1, "what this page sends is not asked about");
  first.uploads.pause("a");

  const { server, uploads, one } = sending({ memory: { ...localStorage } });
  Object.assign(server.stored, first.server.stored);
  await uploads.recall("ada");
  assert.deepEqual([one().state, one().sent], ["waiting", 24]);
  await uploads.resume("none");
  const twice = [1, 2].map(() => uploads.resume("a", server.file)); // as a double click does
  await Promise.all(twice);

  assert.deepEqual([server.stored[5], server.ended.length], ["y", 1]);
  assert.deepEqual(server.bodies.filter((body) => body.parts).length, 1);
});

test("what had arrived whole before a reload is completed without its file", async () => {
  const first = sending();
  const isJoined = (call) => call === "POST /u/a/complete";
  first.server.refuse = (call) => (isJoined(call) ? new Promise(() => {}) : undefined);
  await first.uploads.begin(first.server.file, {});
  await until(() => first.server.asked.some(isJoined), "the last call");

  const { server, uploads } = sending({ memory: { ...localStorage } });
  Object.assign(server.stored, first.server.stored);
  await uploads.recall();

  assert.equal(server.ended.length, 1);
  assert.deepEqual(server.bodies.at(-1), first.server.bodies.at(-1));
});
