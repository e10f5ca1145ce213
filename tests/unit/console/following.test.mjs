// What both elements share: which client they follow with, and for whom.

import assert from "node:assert/strict";
import { test } from "node:test";

const turn = () => new Promise(setImmediate);

const sheets = [];
globalThis.CSSStyleSheet = class {
  replaceSync = (text) => sheets.push(text);
};
globalThis.HTMLElement = class {
  isConnected = true;
  attachShadow = (how) => (this.root = { how, append: (...nodes) => (this.content = nodes) });
  attributes = {};
  getAttribute = (name) => this.attributes[name] ?? null;
  closest = () => this.near ?? null;
};
const { define, FollowingElement, make, put } = await import(
  "../../../infra/console/lib/jobs/following-element.js"
);
const { STYLE, TEXTS } = await import("../../../infra/console/lib/jobs/element-look.js");

/** Names the clients that it follows with, and those that it has let go. */
class Named extends FollowingElement {
  followed = [];
  closed = [];
  drawn = 0;

  draw() {
    this.drawn += 1;
  }

  get subject() {
    return [this.of ?? "job"];
  }

  follow({ name }) {
    this.followed.push(name);
    return { close: () => this.closed.push(name), refresh: async () => (this.isRead = true) };
  }
}
const tags = new Map();
globalThis.customElements = {
  get: (tag) => tags.get(tag),
  define: (tag, made) => (assert.ok(!tags.has(tag)), tags.set(tag, made)),
};
define("x-named", Named, "client", "token", "texts");
define("x-named", Named); // as a page that loads it twice
globalThis.document = { documentElement: { lang: "de" } };

/** A client whose people sign in and out. */
function clientNamed(name) {
  const client = { name, sign() {}, left: 0 };
  const subscription = { unsubscribe: () => (client.left += 1) };
  const onAuthStateChange = (listener) => ((client.sign = listener), { data: { subscription } });
  return Object.assign(client, { auth: { onAuthStateChange } });
}

test("elements have one look, which no policy has to allow, and what they are made with", () => {
  const [one, other] = [new Named("a", "b"), new Named()];

  assert.deepEqual([one.content, one.root.how], [["a", "b"], { mode: "open" }]);
  assert.deepEqual([one.root.adoptedStyleSheets.length, sheets], [1, [STYLE]]);
  assert.equal(one.root.adoptedStyleSheets[0], other.root.adoptedStyleSheets[0]);
  assert.deepEqual(FollowingElement.observedAttributes, [
    ...["url", "key", "schema", "label", "compact"],
    ...Object.keys(TEXTS).map((name) => `text-${name}`),
  ]);
  const states = ["queued", "scheduled", "retrying", "running", "suspended", "completed", "failed"];
  for (const name of [...states, "cancelled", "live", "catching-up", "polling", "offline"])
    assert.equal(TEXTS[name].toLowerCase(), name.replace("-", " "));
  const state = { jobs: [], isLoading: true, freshness: null, problem: null };
  assert.deepEqual([one.state, one.schema], [state, undefined]);
});

test("a node has its attributes and content, and without a text it is hidden", () => {
  const node = {
    attributes: {},
    content: [],
    setAttribute: (of, to) => (node.attributes[of] = to),
  };
  node.append = (...nodes) => node.content.push(...nodes);
  document.createElement = (tag) => Object.assign(node, { tag });
  make("p", { part: "a", role: undefined }, "b", "c");
  assert.deepEqual(
    [node.tag, node.attributes, node.content],
    ["p", { part: "a", role: "" }, ["b", "c"]],
  );

  for (const [text, shown] of [
    ["a", ["a", false]],
    [null, ["", true]],
    [false, ["", true]],
  ]) {
    put(node, text);
    assert.deepEqual([node.textContent, node.hidden], shown);
  }
  Object.defineProperty(node, "textContent", {
    get: () => "a",
    set: assert.fail,
  });
  put(node, "a");
});

test("a client that comes after the one that replaced it is not followed with", async () => {
  const element = new Named();
  let come;
  element.client = new Promise((resolve) => (come = resolve));
  await turn();
  element.client = clientNamed("present");
  await turn();

  come(clientNamed("late"));
  await turn();

  assert.deepEqual([element.followed, element.used.name], [["present"], "present"]);
});

test("another person's sign-in begins again, and a fresh token of the same does not", async () => {
  const element = new Named();
  const client = clientNamed("a");
  element.client = client;
  await turn();
  client.sign("INITIAL_SESSION", { user: { id: "ada" } });
  client.sign("TOKEN_REFRESHED", { user: { id: "ada" } });
  await turn();
  assert.deepEqual(element.closed, []);

  client.sign("SIGNED_OUT", null);
  await turn();

  assert.deepEqual([element.closed, element.followed], [["a"], ["a", "a"]]);
  assert.equal(client.left, 1, "it listens once");
});

test("a person who signs in, and another subject, begin again", async () => {
  const element = new Named();
  element.client = clientNamed("a");
  await turn();
  for (const session of [null, { user: { id: "ada" } }]) element.client.sign("", session);
  await turn();
  assert.equal(element.followed.length, 2);

  element.of = "another";
  element.changed();
  await turn();
  assert.equal(element.followed.length, 3);
  element.changed();
  await turn();
  assert.equal(element.followed.length, 3);
});

/** Elements of one project, and the clients that were made for them. */
function pageOf(url) {
  const made = [];
  globalThis.supabase = {
    createClient: (of, key, options) => {
      const tokens = [];
      const client = { name: `${of} ${key}`, realtime: { setAuth: () => tokens.push("asked") } };
      made.push({ options, tokens });
      return client; // without sessions, as one that is given tokens
    },
  };
  const element = (properties = {}) => {
    const one = Object.assign(new Named(), { attributes: { url, key: "k" } }, properties);
    one.connectedCallback();
    return one;
  };
  return { made, element };
}

test("elements of one project share a client, which has the last token that was given", async () => {
  const { made, element } = pageOf("http://a");
  const [one] = [element(), element()];
  await turn();
  assert.deepEqual([made.length, made[0].options, one.followed], [1, {}, ["http://a k"]]);

  const signed = element({ token: "first" });
  await turn();
  const { accessToken } = made[1].options;
  assert.equal(await accessToken(), "first");
  element({ token: "first" });
  await turn();
  assert.deepEqual(made[1].tokens, [], "it is the same");
  element({ token: async () => "second" });
  await turn();
  assert.deepEqual([made.length, made[1].tokens, await accessToken()], [2, ["asked"], "second"]);
  assert.deepEqual([signed.token, signed.followed, signed.closed], ["first", ["http://a k"], []]);
  one.token = "third";
  await turn();
  assert.deepEqual([made.length, one.followed.length, one.closed.length], [2, 2, 1], "signed in");
  element({ attributes: { url: "http://a", key: "another" } });
  await turn();
  assert.equal(made.length, 3);
});

test("without an address or a key nothing is followed, and what fails is said and tried again", async () => {
  const { element } = pageOf("http://b");
  for (const attributes of [{ url: "http://b" }, { key: "k" }, {}]) {
    const none = element({ attributes });
    await turn();
    assert.deepEqual([none.followed, none.state.isLoading], [[], true]);
    await none.refresh();
  }

  const { supabase } = globalThis;
  globalThis.supabase = { createClient: () => assert.fail("no client") };
  const failing = element();
  await turn();
  assert.deepEqual(failing.refusal, { words: "no client", isClosed: false });
  assert.equal(failing.drawn, 2, "and once more, to say so");
  failing.client = clientNamed("given");
  await turn();
  assert.deepEqual([failing.followed, failing.refusal.words], [["given"], undefined]);
  globalThis.supabase = supabase;
  const next = element();
  await turn();
  assert.deepEqual(next.followed, ["http://b k"]);
});

test("an element that moves in its page goes on, one that leaves it ends", async () => {
  const { element } = pageOf("http://c");
  const one = element();
  await turn();
  one.isConnected = false;
  one.disconnectedCallback();
  one.isConnected = true;
  one.connectedCallback();
  one.attributeChangedCallback();
  await turn();
  assert.deepEqual([one.followed.length, one.closed, one.drawn], [1, [], 2]);
  await one.refresh();
  assert.equal(one.isRead, true);

  one.attributes.schema = "work";
  one.attributeChangedCallback();
  await turn();
  assert.deepEqual(
    [one.followed.length, one.closed.length],
    [2, 1],
    "another schema is another job",
  );
  one.isConnected = false;
  one.disconnectedCallback();
  await turn();
  assert.deepEqual([one.closed.length, one.watch, one.drawn], [2, undefined, 3]);
});

test("what was set before the element was defined counts", async () => {
  const element = new Named();
  Object.defineProperty(element, "client", {
    ...{ value: clientNamed("early"), configurable: true, enumerable: true, writable: true },
  });
  element.connectedCallback();
  await turn();

  assert.deepEqual([element.followed, Object.hasOwn(element, "client")], [["early"], false]);
  assert.equal(tags.get("x-named"), Named);
});

test("an element's words are its attributes', else its page's, else its own", () => {
  const element = new Named();
  assert.equal(element.text("empty"), "No jobs yet");
  element.texts = { empty: "Nothing", live: "Now", next: "At {at}" };
  element.attributes["text-empty"] = "None";
  assert.deepEqual([element.text("empty"), element.text("live")], ["None", "Now"]);
  const at = "2026-11-20T08:00:00Z";
  assert.equal(element.text("next", at), `At ${new Date(at).toLocaleString("de")}`);
  element.near = { lang: "fr" };
  assert.equal(element.language, "fr");
  element.near = { lang: "" };
  assert.equal(element.language, undefined);
});

for (const [problem, words, isClosed] of [
  [null, undefined, false],
  [{ status: 401, message: "x" }, "Sign in to see this.", true],
  [{ status: 403, message: "x" }, "You may not see this.", true],
  [{ status: 404, message: "x" }, "No such job, or it is not yours.", true],
  [{ status: 400, code: "22P02", message: "x" }, "No such job, or it is not yours.", true],
  [{ status: 422, message: "no", reachable: true }, "no", false],
  [{ status: 0, message: "away", reachable: false }, null, false],
])
  test(`why nothing can be read is said in words: ${JSON.stringify(problem)}`, () => {
    const element = new Named();
    element.watch = { state: { problem } };

    assert.deepEqual(element.refusal, { words, isClosed });
  });
