// What modules of the console find in a browser's page, as far as Node has none: the address bar,
// kept settings, Preact, and /vendor, which index.html takes from node_modules.

import { createRequire, registerHooks } from "node:module";
import { pathToFileURL } from "node:url";

const ROOT = new URL("../../../", import.meta.url);
const require = createRequire(ROOT);

registerHooks({
  resolve: (specifier, context, next) =>
    next(
      specifier.startsWith("/vendor/")
        ? new URL(`node_modules/${specifier.slice("/vendor/".length)}`, ROOT).href
        : specifier,
      context,
    ),
});

const address = new URL("http://console.test/jobs?state=failed");
const kept = new Map();

Object.assign(globalThis, {
  preact: await import(pathToFileURL(require.resolve("preact"))),
  preactHooks: await import(pathToFileURL(require.resolve("preact/hooks"))),
  supabase: require("@supabase/supabase-js"),
  location: address,
  history: {
    entries: 1,
    pushState(_state, _title, to) {
      this.entries += 1;
      address.href = to;
    },
    replaceState: (_state, _title, to) => void (address.href = new URL(to, address).href),
  },
  localStorage: {
    getItem: (name) => kept.get(name) ?? null,
    setItem: (name, value) => kept.set(name, String(value)),
    removeItem: (name) => kept.delete(name),
  },
  document: { visibilityState: "visible" },
});
