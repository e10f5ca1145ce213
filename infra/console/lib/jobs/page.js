// What a page or a script gives: timers, frames, the moments at which something may have been missed.

/** Call what a page gave. Its error is its own to see, and what follows comes all the same. */
export function notify(listener, ...values) {
  try {
    listener?.(...values);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

/** A timer; a script in Node may end while it watches. */
export function later(run, wait) {
  const timer = setTimeout(run, wait);
  timer.unref?.();
  return timer;
}

/** Soon: with the next frame, where there are any. */
export function nextFrame(run) {
  const { document, requestAnimationFrame } = globalThis;
  if (document?.visibilityState === "visible" && requestAnimationFrame) requestAnimationFrame(run);
  else setTimeout(run, document ? 250 : 0); // hidden pages get no frames
}

/** Set a node's text; where it only grows, what is selected of it stays selected. */
export function setText(node, text) {
  const now = node.textContent;
  if (now && text.startsWith(now)) node.firstChild.appendData(text.slice(now.length));
  else if (text !== now) node.textContent = text;
}

// Moments at which a page may have missed something: it came back, the network came back.

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

/** Call `wake` on every such moment, until the returned function is called. */
export function onWake(wake) {
  listen();
  sleepers.add(wake);
  return () => sleepers.delete(wake);
}

/** Whether a browser shows the page to no one; elsewhere false. */
export const isHidden = () => globalThis.document?.visibilityState === "hidden";

export const sleep = (ms) => new Promise((then) => later(then, ms));
