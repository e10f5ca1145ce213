// The address of the page contains the state of the console. The path selects the view, and the
// query contains the view's filters.

import { createStore, useStore } from "./store.js";

const readLocation = () => ({
  path: location.pathname.replace(/(.)\/+$/, "$1"),
  query: new URLSearchParams(location.search),
});

/** Current address as `{path, query}`. */
export const currentLocation = createStore(readLocation());

/** Go to an address of the console. */
export function navigate(address, { replace = false } = {}) {
  const target = new URL(address, location.href);
  if (target.href === location.href) return;
  history[replace ? "replaceState" : "pushState"](null, "", target);
  currentLocation.set(readLocation());
}

/**
 * Change parameters in the query of the current address. A parameter with an empty value is
 * removed.
 */
export function setQuery(changes) {
  const target = new URL(location.href);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "" || value === false)
      target.searchParams.delete(name);
    else target.searchParams.set(name, value);
  }
  navigate(target.href, { replace: true });
}

/** Return the query of the current address. The component is drawn again when it changes. */
export const useQuery = () => useStore(currentLocation).query;

/** Return the first route that matches a path, with its parameters, or null. */
export function match(routes, path) {
  const parts = path.split("/");
  for (const route of routes) {
    const pattern = route.path.split("/");
    if (pattern.length !== parts.length) continue;
    const params = {};
    const isMatch = pattern.every((name, index) => {
      if (!name.startsWith(":")) return name === parts[index];
      params[name.slice(1)] = safeDecode(parts[index]);
      return parts[index] !== "";
    });
    if (isMatch) return { route, params };
  }
  return null;
}

function safeDecode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // the address has a stray %
  }
}

/** Navigate on clicks of the console's links without loading the page again. */
export function followLinks() {
  addEventListener("popstate", () => currentLocation.set(readLocation()));
  document.addEventListener("click", (event) => {
    if (
      event.defaultPrevented ||
      event.button !== 0 ||
      event.metaKey ||
      event.ctrlKey ||
      event.shiftKey ||
      event.altKey
    )
      return;
    const target = event.target;
    const link = target?.closest?.("a[href]");
    if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin)
      return;
    if (link.hash && link.pathname === location.pathname) return;
    event.preventDefault();
    navigate(link.href);
  });
}
