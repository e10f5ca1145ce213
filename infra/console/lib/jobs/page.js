// Timers, frames and wake-ups of a page, or of a script in Node.

/**
 * Call a listener of the page's code. If the listener throws, report the error as uncaught and
 * continue.
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

/** Start a timer that does not keep a Node process running. */
export function later(run, wait) {
  const timer = setTimeout(run, wait);
  timer.unref?.();
  return timer;
}

/** Call `run` in the next frame, or soon if the page has no frames. */
export function nextFrame(run) {
  const { document, requestAnimationFrame } = globalThis;
  if (document?.visibilityState === "visible" && requestAnimationFrame) requestAnimationFrame(run);
  else setTimeout(run, document ? 250 : 0); // hidden pages get no frames
}

/** Set a node's text. If the text only grows, keep the reader's selection. */
export function setText(node, text) {
  const now = node.textContent;
  if (now && text.startsWith(now)) node.firstChild.appendData(text.slice(now.length));
  else if (text !== now) node.textContent = text;
}

// A page may have missed messages if it was hidden or if the network was lost.

/** Call `wake` each time that the page may have missed messages, until `signal` aborts. */
export function onWake(wake, signal) {
  for (const name of ["online", "offline", "focus", "pageshow"])
    globalThis.addEventListener?.(name, wake, { signal });
  const onVisible = () => isHidden() || wake();
  globalThis.document?.addEventListener("visibilitychange", onVisible, { signal });
}

/** Whether the page is hidden in the browser. False in Node. */
export const isHidden = () => globalThis.document?.visibilityState === "hidden";

export const sleep = (ms) => new Promise((then) => later(then, ms));
