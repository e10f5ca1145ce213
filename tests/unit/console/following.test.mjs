// What both elements share: which client they follow with, and for whom.

import assert from "node:assert/strict";
import { test } from "node:test";

const turn = () => new Promise(setImmediate);

globalThis.CSSStyleSheet = class {
  replaceSync() {}
};
globalThis.HTMLElement = class {
  isConnected = true;
  attachShadow = () => ({ append() {} });
  getAttribute = () => null;
};
const { define, FollowingElement } = await import(
  "../../../infra/console/lib/jobs/following-element.js"
);

/** Names the clients that it follows with, and those that it has let go. */
class Named extends FollowingElement {
  followed = [];
  closed = [];

  get subject() {
    return ["job"];
  }

  follow({ name }) {
    this.followed.push(name);
    return { close: () => this.closed.push(name) };
  }
}
define("x-named", Named, "client");

/** A client whose people sign in and out. */
function clientNamed(name) {
  const client = { name, sign() {} };
  const subscription = { unsubscribe() {} };
  const onAuthStateChange = (listener) => ((client.sign = listener), { data: { subscription } });
  return Object.assign(client, { auth: { onAuthStateChange } });
}

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
});
