// Timers, animation frames and wake-ups for a page in a browser, or for a script in Node.

/**
 * Call a listener that belongs to the page. If the listener throws an error, report the error as
 * uncaught and continue.
 */
export function notify(listener, ...values) {
  try {
    listener?.(...values);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

/** Start a timer that does not prevent a Node process from ending. */
export function later(run, wait) {
  const timer = setTimeout(run, wait);
  timer.unref?.();
  return timer;
}

/** Call `run` in the next animation frame, or after a short time if the page gets no frames. */
export function nextFrame(run) {
  const { document, requestAnimationFrame } = globalThis;
  if (document?.visibilityState === "visible" && requestAnimationFrame) requestAnimationFrame(run);
  else setTimeout(run, document ? 250 : 0); // hidden pages get no animation frames
}

/**
 * Set the text of a node. If the new text only adds to the old text, keep the reader's selection.
 */
export function setText(node, text) {
  const now = node.textContent;
  if (now && text.startsWith(now)) node.firstChild.appendData(text.slice(now.length));
  else if (text !== now) node.textContent = text;
}

/**
 * Until `signal` aborts, call `wake` each time when the page may have missed messages, because the
 * page was hidden or the network was lost.
 */
export function onWake(wake, signal) {
  for (const name of ["online", "offline", "focus", "pageshow"])
    globalThis.addEventListener?.(name, wake, { signal });
  const onVisible = () => isHidden() || wake();
  globalThis.document?.addEventListener("visibilitychange", onVisible, { signal });
}

/** Return whether the page is hidden in the browser. In Node, return false. */
export const isHidden = () => globalThis.document?.visibilityState === "hidden";

export const sleep = (ms) => new Promise((then) => later(then, ms));
