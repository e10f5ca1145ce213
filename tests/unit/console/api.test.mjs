// The console's calls: sign-in, what a person may see, and what a refusal or an outage becomes.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import "./page.mjs";
import { turn, until } from "./world.mjs";

const api = await import("../../../infra/console/api.js");
const { readsOf } = await import("../../../infra/console/lib/jobs/reads.js");
const { request, session } = api;

/** What was asked, as `method address`; answers by that, of a body or of [status, body, headers]. */
let asked;
let answers;
globalThis.fetch = async (url, options = {}) => {
  const { method = "GET", headers, body, signal } = options;
  const { origin, pathname, search } = new URL(url, location.href);
  const call = `${method} ${decodeURIComponent(pathname + search)}`;
  asked.push({ call, origin, headers: new Headers(headers), body });
  signal?.throwIfAborted();
  const found = (await answers[call]) ??
    (await answers[`${method} ${pathname}`]) ?? [404, { error: call }];
  if (found instanceof Error) throw found;
  const [status, said, more] =
    Array.isArray(found) && Number.isInteger(found[0]) ? found : [200, found];
  const content = said === undefined || typeof said === "string" ? said : JSON.stringify(said);
  return new Response(status === 204 ? null : content, { status, headers: more });
};
beforeEach(() => {
  asked = [];
  answers = {};
  connected({ session: { access_token: "old" } });
});

/** A page of someone else, whose client has this session, or none. */
function connected(had, renewed = { session: { access_token: "new" } }) {
  const { session: kept, error = null } = had;
  const left = [];
  const auth = {
    getSession: async () => ({ data: { session: kept }, error }),
    refreshSession: async () => ({ data: renewed, error: renewed.error ?? null }),
    signOut: async () => left.push("out"),
  };
  api.connect({ auth }, { api: "http://api.test" });
  return left;
}

const refused = (call) => call.then(assert.fail, (error) => error);

test("a call has its query, its body and the person's token, and no empty values", async () => {
  answers["POST /api/a?tag=x&tag=y&n=0"] = { made: 1 };
  answers["GET /api/file"] = "bytes";
  answers["DELETE /api/a"] = [204];
  const query = { tag: ["x", "y"], n: 0, none: null, gone: undefined, empty: "" };

  assert.deepEqual(await request("POST", "/api/a", { query, body: { b: 1 } }), { made: 1 });
  const blob = await request("GET", "/api/file", { as: "blob", headers: { "X-More": "1" } });
  assert.equal(await blob.text(), "bytes");
  assert.equal(await request("DELETE", "/api/a", { token: "given" }), null);
  await refused(request("GET", "/api/a", { guestSession: "guest_7" }));

  const sent = asked.map(({ headers }) => Object.fromEntries(headers));
  assert.deepEqual(sent, [
    { "content-type": "application/json", authorization: "Bearer old" },
    { authorization: "Bearer old", "x-more": "1" },
    { authorization: "Bearer given" },
    { "x-session-id": "guest_7" },
  ]);
  assert.deepEqual([...new Set(asked.map(({ origin }) => origin))], ["http://api.test"]);
  assert.deepEqual([asked[0].body, asked[1].body], ['{"b":1}', undefined]);
});

test("a form is sent as it is", async () => {
  const form = new FormData();
  answers["POST /api/form"] = {};

  await request("POST", "/api/form", { form, body: { b: 1 } });

  assert.equal(asked[0].body, form);
});

test("a token that is refused is renewed once, one that was given never", async () => {
  answers["GET /api/a"] = [401, { error: "expired" }];

  for (const options of [{}, { token: "given" }, { guestSession: "guest_7" }])
    assert.equal((await refused(request("GET", "/api/a", options))).status, 401);

  const tokens = asked.map(({ headers }) => headers.get("Authorization"));
  assert.deepEqual(tokens, ["Bearer old", "Bearer new", "Bearer given", null]);
});

for (const [name, answer, expected] of [
  [
    "ours",
    [409, { error: "no", code: "taken", detail: { a: 1 }, request_id: "r" }],
    [409, "taken", "no", { a: 1 }, "r", null],
  ],
  [
    "to wait",
    [503, { error: "busy", code: "busy" }, { "Retry-After": "7" }],
    [503, "busy", "busy", null, null, 7],
  ],
  ["a gateway's page", [502, "<html>"], [502, null, "The server answered 502", null, null, null]],
  [
    "a gateway's limit",
    [429, {}],
    [429, "rate_limited", "Too many requests at once. Try again in a moment.", null, null, 1],
  ],
  ["our limit", [429, { error: "slow", code: "quota" }], [429, "quota", "slow", null, null, null]],
  [
    "no answer",
    new TypeError("fetch failed"),
    [0, "unreachable", "The server cannot be reached", null, null, null],
  ],
  [
    "a late answer",
    new DOMException("", "TimeoutError"),
    [0, "unreachable", "The server did not answer in time", null, null, null],
  ],
])
  test(`a refusal says what to do: ${name}`, async () => {
    answers["GET /api/a"] = answer;

    const error = await refused(request("GET", "/api/a"));

    const { status, code, message, detail, requestId, retryAfter } = error;
    assert.deepEqual([status, code, message, detail, requestId, retryAfter], expected);
    assert.equal(error.name, "ApiError");
  });

test("a call that its page gave up fails as that", async () => {
  const error = await refused(request("GET", "/api/a", { signal: AbortSignal.abort() }));

  assert.equal(error.name, "AbortError");
});

// before any test that starts the console: from there on the session is its own
for (const [name, had, expected] of [
  ["none", { session: null }, [401, "unauthorized"]],
  ["refused", { session: null, error: { status: 400 } }, [401, "unauthorized"]],
  ["of an Auth that fails", { session: null, error: { status: 500 } }, [0, "unreachable"]],
  ["of an Auth that is away", { session: null, error: {} }, [0, "unreachable"]],
])
  test(`without a session no call is made, and another page's stays as it is: ${name}`, async () => {
    const left = connected(had);

    const { status, code } = await refused(request("GET", "/api/a"));

    assert.deepEqual([status, code, left, asked], [...expected, [], []]);
  });

test("a route's braces are filled in their order, and what is left is its options", async () => {
  answers["POST /api/jobs/a%2Fb/cancel"] = {};

  await api.jobs.cancel("a/b", api.once({ c: 1 }));

  const [{ headers, body }] = asked;
  assert.equal(body, '{"c":1}');
  assert.match(headers.get("Idempotency-Key"), /^[0-9a-f-]{36}$/);
  const path = "/api/jobs/a%2Fb/cancel";
  assert.deepEqual(api.filled("POST /api/jobs/{job_id}/cancel", { job_id: "a/b" }), ["POST", path]);
  assert.deepEqual(api.filled("GET /api/jobs"), ["GET", "/api/jobs"]);
});

/** A Data API that answers so. */
function holding(given) {
  const client = globalThis.supabase.createClient("http://data.test", "key");
  api.connect(client, { schema: "work", api: "http://api.test" });
  Object.assign(answers, given);
  return client;
}

test("a read that is refused has the queue's word, and none without an answer", async () => {
  const said = { message: "no", code: "42501", details: "d" };
  holding({ "POST /rest/v1/rpc/f": [403, { ...said, hint: "forbidden" }] });
  const { status, code, message, detail } = await refused(api.rpc("f"));
  assert.deepEqual([status, code, message, detail], [403, "forbidden", "no", "d"]);

  answers["POST /rest/v1/rpc/f"] = [403, said];
  assert.equal((await refused(api.rpc("f"))).code, "42501");
  answers["POST /rest/v1/rpc/f"] = new TypeError("fetch failed");
  assert.equal((await refused(api.rpc("f"))).code, "unreachable");
  assert.equal(asked[0].headers.get("Content-Profile"), "work");
  await refused(readsOf(api.supabase()).job("j1"));
  assert.equal(asked.at(-1).headers.get("Accept-Profile"), "work", "also where jobs are watched");

  const stopped = await refused(api.rpc("f", {}, AbortSignal.abort()));
  assert.notEqual(stopped.code, "unreachable", "the page gave it up");
});

test("people are asked for once each, and those that may not be known have no address", async () => {
  holding({ "POST /rest/v1/rpc/people": { ada: "ada@a.test" } });

  assert.deepEqual(await api.people(["ada", "eve", "ada", ""]), { ada: "ada@a.test" });
  assert.deepEqual(await api.people(["ada", "eve"]), { ada: "ada@a.test" });

  assert.deepEqual(
    asked.map(({ body }) => body),
    ['{"p_ids":["ada","eve"]}'],
  );
});

test("jobs are counted by the filters that are set", async () => {
  holding({ "POST /rest/v1/rpc/count_jobs": { states: {} } });

  await api.jobs.counts("acme", { queue: "q", job_type: "", parent_id: null });

  assert.equal(asked[0].body, '{"p_workspace_id":"acme","p_filter":{"queue":"q"}}');
});

test("below a job are its children, oldest first, and four levels in all", async () => {
  const { auth } = holding({});
  auth.getSession = async () => ({ data: { session: { access_token: "old" } }, error: null });
  const pages = { "": ["c3", "c2"], next: ["c1"] };
  for (const [cursor, ids] of Object.entries(pages))
    answers[`GET /api/jobs?parent_id=j1&limit=200${cursor && `&cursor=${cursor}`}`] = {
      jobs: ids.map((id) => ({ id })),
      next_cursor: cursor ? null : "next",
    };
  const levels = [["d1"], ["e1"], ["f1"], ["g1"]];
  const { fetch } = globalThis;
  globalThis.fetch = async (url, options) =>
    String(url).includes("/rest/v1/jobs?")
      ? (asked.push({ call: decodeURIComponent(url) }),
        Response.json(levels.shift().map((id) => ({ id }))))
      : fetch(url, options);

  const found = await api.jobs
    .descendants("j1", new AbortController().signal)
    .finally(() => (globalThis.fetch = fetch));

  assert.deepEqual(
    found.map(({ id }) => id),
    ["c1", "c2", "c3", "d1", "e1", "f1"],
  );
  const reads = asked.map(({ call }) => /parent_id=in.*$/.exec(call)?.[0]).filter(Boolean);
  const sorted = "order=created_at.asc,id.asc&limit=200";
  assert.deepEqual(
    reads,
    ["c1,c2,c3", "d1", "e1"].map((ids) => `parent_id=in.(${ids})&${sorted}`),
  );
});

// The console itself ----------------------------------------------------------------------------

const coded = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const ada = { id: "ada", email: "ada@a.test" };
const jwt = `${coded({ alg: "HS256" })}.${coded({ sub: "ada", exp: 4_000_000_000 })}.${coded(0)}`;
const granted = {
  access_token: jwt,
  refresh_token: "r",
  expires_in: 3600,
  token_type: "bearer",
  user: ada,
};
const PASSWORD = "POST /auth/v1/token?grant_type=password";

/** The console on a server that knows Ada; what else it answers. */
async function started(more = {}, { hash = "", visiting } = {}) {
  Object.assign(answers, {
    "GET /config.json": { supabaseUrl: "http://data.test", supabaseKey: "key", schema: "work" },
    [PASSWORD]: granted,
    "GET /auth/v1/user": ada,
    "POST /auth/v1/logout?scope=local": [204],
    "GET /rest/v1/workspaces": ["acme", "beta", "delta"].map((id) => ({
      id,
      name: id.toUpperCase(),
    })),
    "GET /rest/v1/workspace_members": [{ workspace_id: "acme", role: "manager" }],
    ...more,
  });
  session.set({ ...session.get(), status: "starting", user: null, reason: null, isNew: false });
  location.hash = hash;
  await api.start({ visiting });
  if (!visiting) await until(() => session.get().status !== "starting", "started");
}
const signedIn = async () => {
  await api.signIn("ada@a.test", "secret");
  await until(() => ["in", "failed"].includes(session.get().status), "signed in");
};

test("a person sees the workspaces that the database shows them", async () => {
  localStorage.setItem("minutehand.workspace", "beta");
  await started();
  assert.deepEqual([session.get().status, session.get().reason], ["out", null]);
  await signedIn();

  const { workspaces, workspace, user, isNew } = session.get();
  assert.deepEqual(workspaces.map(Object.values), [
    ["acme", "ACME", "manager"],
    ["beta", "BETA", "member"],
    ["delta", "DELTA", "member"],
  ]);
  assert.deepEqual([workspace.id, user, isNew], ["beta", ada, false]);
  const read = asked.find(({ call }) => call.includes("/workspaces"));
  assert.equal(read.headers.get("Accept-Profile"), "work");
  const { persistSession, storageKey, detectSessionInUrl } = api.supabase().auth;
  const kept = [persistSession, storageKey, detectSessionInUrl];
  assert.deepEqual(kept, [true, "minutehand.session", false]);

  await api.refreshWorkspaces();
  assert.equal(session.get().workspace.id, "beta");
  await api.refreshWorkspaces("delta");
  assert.equal(session.get().workspace.id, "delta");
  api.chooseWorkspace("none");
  api.chooseWorkspace("acme");
  assert.deepEqual(
    [session.get().workspace.id, localStorage.getItem("minutehand.workspace")],
    ["acme", "acme"],
  );
});

test("who signs out is not asked why; who is signed out is told so", async () => {
  await started();
  await signedIn();
  await api.signOut();
  await until(() => session.get().status === "out", "out");
  assert.deepEqual([session.get().reason, session.get().user], [null, null]);

  await signedIn();
  answers["GET /api/a"] = [401, {}];
  answers["POST /auth/v1/token?grant_type=refresh_token"] = [
    400,
    { error_code: "refresh_token_not_found" },
  ];
  assert.equal((await refused(request("GET", "/api/a"))).status, 401);
  await until(() => session.get().status === "out", "out");
  assert.match(session.get().reason, /^Your session has ended/);
});

test("who signs out while their workspaces are read stays signed out", async () => {
  let read;
  const workspaces = new Promise((resolve) => (read = () => resolve([{ id: "acme", name: "A" }])));
  await started({ "GET /rest/v1/workspaces": workspaces });
  await api.signIn("ada@a.test", "secret");
  await until(() => session.get().user, "the user");

  await api.signOut();
  await until(() => session.get().user === null, "out");
  read();
  for (let count = 0; count < 20; count += 1) await turn();

  assert.equal(session.get().status, "out");
});

test("a session that was kept and is not valid any more is said to have ended", async () => {
  localStorage.setItem("minutehand.session", "kept");
  await started();

  assert.match(session.get().reason, /^Your session has ended/);
  localStorage.removeItem("minutehand.session");
});

test("a wrong password is refused, and workspaces that cannot be read are not an empty list", async () => {
  await started({ [PASSWORD]: [400, { error_code: "invalid_credentials", msg: "Invalid" }] });
  const { status, code, message } = await refused(api.signIn("ada@a.test", "wrong"));
  assert.deepEqual([status, code, message], [400, "invalid_credentials", "Invalid"]);

  answers[PASSWORD] = granted;
  answers["GET /rest/v1/workspace_members"] = [500, { message: "away" }];
  await signedIn();
  assert.deepEqual([session.get().status, session.get().error.status], ["failed", 500]);
});

test("a mailed link signs in, asks for a password where it must, and leaves the address", async () => {
  const hash = `#access_token=${jwt}&refresh_token=r&type=`;
  await started({ "PUT /auth/v1/user": ada }, { hash: `${hash}recovery` });
  await until(() => session.get().status === "in", "in");
  assert.equal(session.get().isNew, true);
  assert.equal(location.href, "http://console.test/jobs?state=failed");
  await api.choosePassword("secret");
  assert.equal(session.get().isNew, false);
  answers["PUT /auth/v1/user"] = [422, { error_code: "weak_password", msg: "Weak" }];
  assert.equal((await refused(api.choosePassword("a"))).code, "weak_password");

  await started({}, { hash: `${hash}magiclink` });
  await until(() => session.get().status === "in", "in");
  assert.equal(session.get().isNew, false);

  await started({}, { hash: "#error_description=Too+late&type=recovery" });
  const { status, reason, isNew } = session.get();
  assert.deepEqual(
    [status, reason, isNew],
    ["out", "The link was not accepted: Too late. Ask for a new one.", false],
  );
});

test("a guest's page has no session and asks for none", async () => {
  await started({}, { visiting: true, hash: "#access_token=a" });

  assert.deepEqual([session.get().status, location.hash], ["starting", "#access_token=a"]);
  const { persistSession, autoRefreshToken, detectSessionInUrl } = api.supabase().auth;
  assert.deepEqual([persistSession, autoRefreshToken, detectSessionInUrl], [false, false, false]);
  answers["GET /config.json"] = [500, ""];
  assert.equal((await refused(api.start())).status, 500);
});
