// Router of the console. The path in the browser's address selects the page, and the query in the
// address contains the page's filters.

import { createStore, useStore } from "./store.js";

/** Last address of the list of jobs in this tab. */
export const listAddress = createStore("/jobs");

function readLocation() {
  const path = location.pathname.replace(/(.)\/+$/, "$1");
  if (path === "/jobs") listAddress.set(path + location.search);
  return { path, query: new URLSearchParams(location.search) };
}

/** Current address of the page, as `{path, query}`. */
export const currentLocation = createStore(readLocation());

/** Open another page of the console by its address. */
export function navigate(address, { replace = false } = {}) {
  const target = new URL(address, location.href);
  if (target.href === location.href) return;
  history[replace ? "replaceState" : "pushState"](null, "", target);
  currentLocation.set(readLocation());
}

/**
 * Change parameters in the query of the current address. A parameter that gets an empty value is
 * removed from the query.
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

/**
 * Return the query of the current address. When the query changes, Preact renders the calling
 * component again.
 */
export const useQuery = () => useStore(currentLocation).query;

/**
 * Return the first route that matches a path, with the values of the route's parameters. Return
 * null if no route matches.
 */
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
    return text; // the address contains a % that is no escape
  }
}

/**
 * When a person clicks a link to a page of the console, show the page without loading the document
 * again.
 */
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
    const link = event.target.closest?.("a[href]");
    if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin)
      return;
    if (link.hash && link.pathname === location.pathname) return;
    event.preventDefault();
    navigate(link.href);
  });
}
