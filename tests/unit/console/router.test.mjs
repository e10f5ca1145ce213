// Addresses: which view a path chooses, and how the query keeps the filters.

import assert from "node:assert/strict";
import { test } from "node:test";
import "./page.mjs";

const { followLinks, match, navigate, place, setQuery } = await import(
  "../../../infra/console/lib/router.js"
);
const ROUTES = [
  { path: "/jobs" },
  { path: "/jobs/:id" },
  { path: "/trainings/monitor" },
  { path: "/trainings/:id" },
];
const found = (path) => {
  const one = match(ROUTES, path);
  return one && [one.route.path, one.params];
};

test("the first route of as many parts that fits is taken, with its parameters", () => {
  assert.deepEqual(found("/jobs"), ["/jobs", {}]);
  assert.deepEqual(found("/jobs/7"), ["/jobs/:id", { id: "7" }]);
  assert.deepEqual(found("/trainings/monitor"), ["/trainings/monitor", {}]);
  assert.deepEqual(found("/jobs/a%2Fb"), ["/jobs/:id", { id: "a/b" }]);
  assert.deepEqual(found("/jobs/100%"), ["/jobs/:id", { id: "100%" }], "a stray % is kept");
});

test("an empty parameter, another length and another word fit nothing", () => {
  for (const path of ["/jobs/", "/jobs/7/logs", "/nowhere", ""]) assert.equal(found(path), null);
});

test("changing the query keeps the rest, drops what is empty and adds no entry to the history", () => {
  const entries = history.entries;

  setQuery({ search: "two words", state: "" });

  assert.equal(location.search, "?search=two+words");
  assert.equal(place.get().query.get("search"), "two words");
  assert.equal(history.entries, entries);
});

test("a navigation is told once, a slash at the end is dropped, and staying is no entry", () => {
  const told = [];
  const stop = place.subscribe(({ path }) => told.push(path));
  const entries = history.entries;

  navigate("/types/");
  navigate("/types/");
  stop();
  navigate("/");

  assert.deepEqual(told, ["/types"]);
  assert.equal(history.entries, entries + 2);
  assert.equal(place.get().path, "/");
});

test("a click on a link of the console changes the address alone, any other is the browser's", () => {
  const listeners = {};
  globalThis.addEventListener = (name, run) => (listeners[name] = run);
  document.addEventListener = globalThis.addEventListener;
  followLinks();
  const link = (more = {}) => {
    const { href, origin, pathname, hash } = new URL("/types", location.href);
    return { href, origin, pathname, hash, target: "", hasAttribute: () => false, ...more };
  };
  const isFollowed = (near, more = {}) => {
    navigate("/");
    let isPrevented = false;
    const event = { button: 0, target: { closest: () => near }, ...more };
    listeners.click({ ...event, preventDefault: () => (isPrevented = true) });
    assert.equal(place.get().path, isPrevented ? "/types" : "/");
    return isPrevented;
  };

  assert.equal(isFollowed(link()), true);
  assert.equal(isFollowed(link({ hash: "#log" })), true, "of another page");
  for (const other of [
    null,
    link({ target: "_blank" }),
    link({ hasAttribute: (name) => name === "download" }),
    link({ origin: "http://other.test" }),
    link({ hash: "#log", pathname: "/" }),
  ])
    assert.equal(isFollowed(other), false);
  for (const key of ["defaultPrevented", "metaKey", "ctrlKey", "shiftKey", "altKey"])
    assert.equal(isFollowed(link(), { [key]: true }), false, key);
  assert.equal(isFollowed(link(), { button: 1 }), false);
  assert.equal(isFollowed(link(), { target: {} }), false);

  location.pathname = "/back";
  listeners.popstate();
  assert.equal(place.get().path, "/back");
});

test("a filter that is off, null or not given leaves the address", () => {
  setQuery({ a: 1, b: "x", c: 2 });
  setQuery({ a: false, b: null, c: undefined, d: 0 });

  assert.equal(location.search, "?d=0");
  navigate("/?d=1", { replace: true });
});
