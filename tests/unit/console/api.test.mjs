// Tests how the console's requests handle rejected tokens and outages of Supabase Auth, with the
// real supabase-js.

import assert from "node:assert/strict";
import { before, beforeEach, test } from "node:test";
import { skipPauses } from "./clock.mjs";

skipPauses(20_000); // pauses between the tries of supabase-js

globalThis.location = { origin: "http://console" };
globalThis.localStorage = { getItem: () => null };
const { request, session, signIn, signOut, start } = await import("../../../infra/console/api.js");

const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const user = { id: "ada", email: "ada@example.com", app_metadata: {} };
let tokens = 0; // number of tokens that Auth has issued
const issue = () => {
  tokens += 1;
  const expires_at = Math.floor(Date.now() / 1000) + 3600;
  const access_token = `${encode({ alg: "HS256" })}.${encode({ exp: expires_at, n: tokens })}.x`;
  return {
    access_token,
    refresh_token: `${tokens}`,
    expires_in: 3600,
    expires_at,
    token_type: "bearer",
    user,
  };
};
const AUTH = {
  there: () => Response.json(issue()),
  away: () => Promise.reject(new TypeError("fetch failed")),
  broken: () => Response.json({ message: "no database" }, { status: 500 }),
  refuses: () => Response.json({ code: "refresh_token_not_found", message: "no" }, { status: 400 }),
};
let auth; // state of Supabase Auth
let accepted; // the HTTP API accepts tokens from this number on
const sent = []; // numbers of the tokens that the HTTP API has received

globalThis.fetch = async (input, { headers, signal } = {}) => {
  signal?.throwIfAborted();
  const { pathname } = new URL(input, "http://console");
  if (pathname === "/config.json")
    return Response.json({ supabaseUrl: "http://supabase", supabaseKey: "key" });
  if (pathname === "/auth/v1/token") return AUTH[auth]();
  if (pathname.endsWith("/workspaces")) return Response.json([{ id: "w", name: "Workspace" }]);
  if (!pathname.startsWith("/api/")) return Response.json([]);
  const [, claims] = headers.Authorization.split(".");
  const { n } = JSON.parse(Buffer.from(claims, "base64url"));
  sent.push(n);
  return n < accepted
    ? Response.json({ code: "unauthorized", error: "expired" }, { status: 401 })
    : Response.json({ ok: true });
};

const enter = async () => {
  await signIn("ada@example.com", "secret");
  while (["starting", "out"].includes(session.get().status)) await new Promise(setImmediate);
};

before(start);
beforeEach(async () => {
  auth = "there";
  await enter();
  accepted = tokens;
  sent.length = 0;
});

test("a request whose token is rejected is repeated once with a new token", async () => {
  accepted = tokens + 1;
  assert.deepEqual(await request("GET", "/api/jobs"), { ok: true });
  assert.deepEqual(sent, [accepted - 1, accepted]);
});

test("a request whose new token is rejected too fails, and the user stays signed in", async () => {
  accepted = tokens + 2;
  await assert.rejects(request("GET", "/api/jobs"), { status: 401, code: "unauthorized" });
  assert.deepEqual([sent.length, session.get().status], [2, "in"]);
});

for (const [state, status, wanted] of [
  ["away", 0, "in"],
  ["broken", 0, "in"],
  ["refuses", 401, "out"],
])
  test(`if Auth ${state} while a token is renewed, the user is ${wanted}`, async () => {
    accepted = Infinity;
    auth = state;
    await assert.rejects(request("GET", "/api/jobs"), { name: "ApiError", status });
    for (let n = 0; n < 5; n += 1) await new Promise((then) => setTimeout(then));
    assert.deepEqual([sent.length, session.get().status], [1, wanted]);
    const { reason } = session.get();
    assert.equal(reason?.startsWith("Your session has ended") ?? false, wanted === "out");
  });

test("a person who has signed out sees no reason, and can sign in again", async () => {
  await signOut();
  while (session.get().status === "in") await new Promise(setImmediate);
  assert.equal(session.get().reason, null);

  await enter();

  const { status, workspace } = session.get();
  assert.deepEqual([status, workspace?.role], ["in", "member"]);
});
