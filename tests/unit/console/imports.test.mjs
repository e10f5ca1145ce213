// No module of the console needs itself: what two need is below both.

import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const CONSOLE = join(ROOT, "infra/console");
const APPS = join(ROOT, "shared/minutehand_apps");

/** Where a module is served: an app's folder `console` at /apps/<app>. */
const addressOf = (file) =>
  file.startsWith(APPS)
    ? "/apps" + file.slice(APPS.length).replace("/console/", "/")
    : file.slice(CONSOLE.length);

const STATIC_IMPORT = /^(?:import|export)\b[^"'`;]*?["'](\.[^"']+)["']/gm;

const modules = new Map(
  [
    ...globSync(join(CONSOLE, "!(npm)/**/*.js")),
    ...globSync(join(CONSOLE, "*.js")),
    ...globSync(join(APPS, "*/console/**/*.js")),
  ].map((file) => {
    const address = addressOf(file);
    const found = [...readFileSync(file, "utf8").matchAll(STATIC_IMPORT)];
    return [address, found.map(([, path]) => normalize(join(dirname(address), path)))];
  }),
);

/** A way from a module back to itself, or null. */
function circleFrom(start) {
  const seen = new Set();
  const walk = (address, way) => {
    for (const next of modules.get(address) ?? []) {
      if (next === start) return [...way, next];
      if (seen.has(next)) continue;
      seen.add(next);
      const found = walk(next, [...way, next]);
      if (found) return found;
    }
    return null;
  };
  return walk(start, [start]);
}

test("every import leads to a module", () => {
  const astray = [...modules].flatMap(([from, targets]) =>
    targets.filter((to) => !modules.has(to)).map((to) => `${from} -> ${to}`),
  );

  assert.deepEqual(astray, []);
  assert.ok(modules.get("/apps/chat/conversation.js") && modules.get("/app.js").includes("/api.js"));
});

test("no module imports itself, through whichever others", () => {
  const circles = [...modules.keys()].map(circleFrom).filter(Boolean);

  assert.deepEqual(circles, []);
});

/** Loaded by name: the element by other pages, and each app's manifest by the shell. */
const isFace = (address) => address === "/lib/element.js" || address.endsWith("/manifest.js");

test("every module is imported, or loaded by the shell", () => {
  const used = new Set([...modules.values()].flat());
  const texts = globSync(
    join(ROOT, "{infra/console,shared/minutehand_apps/*/console}/**/*.{js,html}"),
  ).map((file) => readFileSync(file, "utf8"));
  const isLoaded = (address) =>
    texts.some((text) => text.includes(`/${address.split("/").at(-1)}"`));

  const unused = [...modules.keys()].filter(
    (address) => !used.has(address) && !isFace(address) && !isLoaded(address),
  );

  assert.deepEqual(unused, []);
});
