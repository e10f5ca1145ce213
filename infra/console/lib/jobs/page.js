// Timers, frames and wake-ups of a page or a script.

/** Call a listener of the page. Its error is reported as uncaught, and the caller continues. */
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

/** Run something in the next frame, or soon if there are no frames. */
export function nextFrame(run) {
  const { document, requestAnimationFrame } = globalThis;
  if (document?.visibilityState === "visible" && requestAnimationFrame) requestAnimationFrame(run);
  else setTimeout(run, document ? 250 : 0); // hidden pages get no frames
}

/** Set a node's text. If the text only grows, the reader's selection is kept. */
export function setText(node, text) {
  const now = node.textContent;
  if (now && text.startsWith(now)) node.firstChild.appendData(text.slice(now.length));
  else if (text !== now) node.textContent = text;
}

// A page may have missed messages when it becomes visible again or the network returns.

/** Call `wake` each time that the page may have missed messages, until `signal` aborts. */
export function onWake(wake, signal) {
  for (const name of ["online", "offline", "focus", "pageshow"])
    globalThis.addEventListener?.(name, wake, { signal });
  const onVisible = () => isHidden() || wake();
  globalThis.document?.addEventListener("visibilitychange", onVisible, { signal });
}

/** Whether the browser hides the page. False in Node. */
export const isHidden = () => globalThis.document?.visibilityState === "hidden";

export const sleep = (ms) => new Promise((then) => later(then, ms));
