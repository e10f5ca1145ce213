// Uploads of an earlier page load: what is completed, what waits for its file, what is forgotten.

import assert from "node:assert/strict";
import { test } from "node:test";
import { uploadsAt } from "../../../infra/console/lib/uploads.js";
import { sleep, until } from "./world.mjs";

const PLACE = "minutehand.uploads /u ";
const kept = (id, whose = "ada", sums = { 1: btoa("x"), 2: btoa("y") }) => ({
  ...{ id, whose, sums, name: "a.mp4", title: "A", size: 20, modified: 1 },
});

/** Uploads that this browser kept, and a server by what has not arrived of each. */
function uploadsOf(all, missing) {
  globalThis.localStorage = browserStorage();
  localStorage.setItem(`${PLACE}torn`, '{"id');
  for (const one of all) localStorage.setItem(PLACE + one.id, JSON.stringify(one));
  const asked = [];
  const request = async (method, url, { body }) => {
    const id = url.split("/")[2];
    asked.push(`${method} ${url}`);
    if (!missing[id]) throw Object.assign(new Error("gone"), { status: 404 });
    if (method === "POST") return { id, checksum: body.checksum };
    return { id, size_bytes: 20, part_bytes: 10, part_count: 2, missing: missing[id] };
  };
  const ended = [];
  const uploads = uploadsAt("/u", { request, onEnd: (upload) => ended.push(upload) });
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
const left = () => Object.keys(localStorage).map((name) => name.slice(PLACE.length));

test("what has arrived is completed by its own person, and by no other of this browser", async () => {
  const all = [kept("whole"), kept("other", "eve"), kept("half"), kept("gone")];
  all.push(kept("unknown", "ada", { 1: btoa("x") }));
  const server = { whole: [], other: [], half: [2], unknown: [] };
  const { uploads, asked, ended } = uploadsOf(all, server);

  await uploads.recall("ada");

  const own = ["GET /u/gone", "GET /u/half", "GET /u/unknown", "GET /u/whole"];
  assert.deepEqual(asked.sort(), [...own, "POST /u/whole/complete"]);
  assert.match(ended[0].checksum, /-2$/);
  assert.deepEqual([ended.length, left()], [1, ["torn", "other", "half", "unknown"]]);
  assert.equal(uploads.get().find(({ id }) => id === "half").sent, 10);
});

test("another file than the one that was begun is refused", async () => {
  const { uploads } = uploadsOf([kept("half")], { half: [2] });
  const wrong = { name: "a.mp4", size: 21, lastModified: 1 };

  await assert.rejects(uploads.resume("half", wrong), /not the file/);
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

test("what was paused and is resumed at once is sent again", async () => {
  const { uploads, asked, isAsked } = await begun();
  await isAsked("POST /u/a/parts");

  uploads.pause("a");
  uploads.resume("a");
  await until(
    () => asked.filter((call) => call === "POST /u/a/parts").length === 2,
    "another part",
  );

  assert.equal(uploads.get()[0].state, "sending");
});

test("a part whose address comes after the pause is not sent", async () => {
  const sent = [];
  globalThis.XMLHttpRequest = class {
    upload = {};
    open = (_method, url) => sent.push(url);
    send() {}
    abort() {}
  };
  const { uploads, sign, isAsked } = await begun();
  await isAsked("POST /u/a/parts");

  uploads.pause("a");
  sign();
  await sleep(20);

  assert.deepEqual([sent, uploads.get()[0].state], [[], "paused"]);
});
