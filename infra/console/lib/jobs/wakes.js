// Moments at which a page may have missed something: it came back, the network came back.

/** @type {Set<() => void>} */
const sleepers = new Set();
let listening = false;

function wakeAll() {
  for (const wake of [...sleepers]) wake();
}

function listen() {
  if (listening || typeof globalThis.addEventListener !== "function") return;
  listening = true;
  for (const name of ["online", "offline", "focus", "pageshow"])
    globalThis.addEventListener(name, wakeAll);
  globalThis.document?.addEventListener("visibilitychange", () => {
    if (globalThis.document.visibilityState === "visible") wakeAll();
  });
}

/**
 * Call `wake` on every such moment, until the returned function is called.
 *
 * @param {() => void} wake
 */
export function onWake(wake) {
  listen();
  sleepers.add(wake);
  return () => sleepers.delete(wake);
}

/** Whether the browser knows that it has no network; elsewhere false. */
export const isOffline = () =>
  typeof document !== "undefined" && globalThis.navigator?.onLine === false;
