// Short messages (toasts) about actions, and a function that confirms and runs an action and shows
// its result.

import { html, quietButton } from "../lib/ui.js";
import { confirm } from "../lib/prompt.js";
import { createStore, useStore } from "../lib/store.js";

const toasts = createStore([]);
let last = 0;

/**
 * Show a message for six seconds, or for twenty seconds if the message has a link (`href`,
 * `label`). If `tone` is `failed`, the message stays until the person dismisses it.
 */
export function notify(text, { tone = "completed", href, label } = {}) {
  last += 1;
  const toast = { id: last, text, tone, href, label };
  toasts.set((now) => [...now.slice(-3), toast]);
  if (tone !== "failed") setTimeout(() => dismiss(toast.id), href ? 20_000 : 6000);
}

/** Show why an action failed, in a message that stays until the person dismisses it. */
export function notifyFailure(what, error) {
  const id = error?.requestId ? ` (request ${String(error.requestId).slice(0, 8)})` : "";
  notify(`${what}: ${error?.message ?? error}${id}`, { tone: "failed" });
}

/**
 * Return a function that asks for confirmation, runs an action, shows the result of the action, and
 * then calls `refresh`.
 */
export const createAction = (refresh) => async (failure, run, done, question) => {
  if (question && !(await confirm(question))) return undefined;
  try {
    const result = await run();
    if (done) notify(typeof done === "function" ? done(result) : done);
    return result;
  } catch (error) {
    notifyFailure(failure, error);
    return undefined;
  } finally {
    await refresh();
  }
};

/** Run an action after which the page need not read its data again. */
export const act = createAction(() => {});

/**
 * Return the text to show after a pause was ended. The text says whether the jobs are still paused,
 * because another pause may stop the same jobs.
 */
export const describeResume = (name) => (answer) =>
  [
    `${name} is ${answer.paused ? "still paused" : "resumed"}`,
    ...(answer.left ?? []).flatMap(({ next }) => next.map(({ words }) => words)),
  ].join(". ");

const dismiss = (id) => toasts.set((now) => now.filter((toast) => toast.id !== id));

/**
 * Area of the page in which the short messages appear. The frame of the console contains this area
 * once.
 */
export function Toasts() {
  const list = useStore(toasts);
  return html`<div class="toasts" role="region" aria-label="Messages" aria-live="polite">
    ${list.map(
      ({ id, text, tone, href, label }) => html`<div class="toast" key=${id} data-tone=${tone}>
        <p>${text}${href && html` <a href=${href}>${label}</a>`}</p>
        ${quietButton("Dismiss", () => dismiss(id), { "aria-label": "Dismiss message" })}
      </div>`,
    )}
  </div>`;
}
