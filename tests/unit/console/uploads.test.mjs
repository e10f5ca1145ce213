// Uploads of an earlier page load: what is completed, what waits for its file, what is forgotten.

import assert from "node:assert/strict";
import { test } from "node:test";
import { uploadsAt } from "../../../infra/console/lib/uploads.js";

const PLACE = "minutehand.uploads /u";
const kept = (id, whose = "ada", sums = { 1: btoa("x"), 2: btoa("y") }) => ({
  ...{ id, whose, sums, name: "a.mp4", title: "A", size: 20, modified: 1 },
});

/** Uploads that this browser kept, and a server by what has not arrived of each. */
function uploadsOf(all, missing) {
  const store = new Map([[PLACE, JSON.stringify(all)]]);
  globalThis.localStorage = {
    getItem: (name) => store.get(name) ?? null,
    setItem: (name, text) => store.set(name, text),
  };
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
  const left = () => JSON.parse(store.get(PLACE)).map(({ id }) => id);
  return { uploads, asked, ended, left };
}

test("what has arrived is completed by its own person, and by no other of this browser", async () => {
  const all = [kept("whole"), kept("other", "eve"), kept("half"), kept("gone")];
  all.push(kept("unknown", "ada", { 1: btoa("x") }));
  const server = { whole: [], other: [], half: [2], unknown: [] };
  const { uploads, asked, ended, left } = uploadsOf(all, server);

  await uploads.recall("ada");

  const own = ["GET /u/gone", "GET /u/half", "GET /u/unknown", "GET /u/whole"];
  assert.deepEqual(asked.sort(), [...own, "POST /u/whole/complete"]);
  assert.match(ended[0].checksum, /-2$/);
  assert.deepEqual([ended.length, left()], [1, ["other", "half", "unknown"]]);
  assert.equal(uploads.get().find(({ id }) => id === "half").sent, 10);
});

test("another file than the one that was begun is refused", async () => {
  const { uploads } = uploadsOf([kept("half")], { half: [2] });
  const wrong = { name: "a.mp4", size: 21, lastModified: 1 };

  await assert.rejects(uploads.resume("half", wrong), /not the file/);
});
