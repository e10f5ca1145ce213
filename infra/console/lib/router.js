// The address bar as the console's state: paths choose the view, the query holds its filters.

import { createStore, useStore } from "./store.js";

const readLocation = () => ({
  path: location.pathname.replace(/(.)\/+$/, "$1"),
  query: new URLSearchParams(location.search),
});

/** Where the console is: `{path, query}`. */
export const currentLocation = createStore(readLocation());

/** Go to an address of the console. */
export function navigate(address, { replace = false } = {}) {
  const target = new URL(address, location.href);
  if (target.href === location.href) return;
  history[replace ? "replaceState" : "pushState"](null, "", target);
  currentLocation.set(readLocation());
}

/** Change some query parameters of the present address; empty values disappear. */
export function setQuery(changes) {
  const target = new URL(location.href);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "" || value === false)
      target.searchParams.delete(name);
    else target.searchParams.set(name, value);
  }
  navigate(target.href, { replace: true });
}

/** The query, drawn again when it changes. */
export const useQuery = () => useStore(currentLocation).query;

/** The first route that fits a path. */
export function match(routes, path) {
  const parts = path.split("/");
  for (const route of routes) {
    const wanted = route.path.split("/");
    if (wanted.length !== parts.length) continue;
    const params = {};
    const fits = wanted.every((want, index) => {
      if (!want.startsWith(":")) return want === parts[index];
      params[want.slice(1)] = safeDecode(parts[index]);
      return parts[index] !== "";
    });
    if (fits) return { route, params };
  }
  return null;
}

function safeDecode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a stray % in an address must not fail
  }
}

/** Links within the console change the address without loading the page again. */
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
