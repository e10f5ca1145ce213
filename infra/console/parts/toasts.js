// What is said of an action: asked before, reported after, refused with its reason.

import { html, quietButton } from "../lib/ui.js";
import { confirm } from "../lib/prompt.js";
import { createStore, useStore } from "../lib/store.js";

const toasts = createStore([]);
let last = 0;

/**
 * Show a message for six seconds, with a link (`href`, `label`) for twenty; a sticky one stays.
 */
export function notify(text, { tone = "completed", sticky = false, href, label } = {}) {
  last += 1;
  const toast = { id: last, text, tone, href, label };
  toasts.set((now) => [...now.slice(-3), toast]);
  if (!sticky) setTimeout(() => dismiss(toast.id), href ? 20_000 : 6000);
}

/** Say why something failed, until it is dismissed. */
export function notifyFailure(what, error) {
  const id = error?.requestId ? ` (request ${String(error.requestId).slice(0, 8)})` : "";
  notify(`${what}: ${error?.message ?? error}${id}`, { tone: "failed", sticky: true });
}

/** Actions on what a read shows: each says that it is done or why not, and reads again. */
export const createAction = (refresh) => async (failure, run, done, question) => {
  if (question && !(await confirm(question))) return undefined;
  try {
    const made = await run();
    if (done) notify(typeof done === "function" ? done(made) : done);
    return made;
  } catch (error) {
    notifyFailure(failure, error);
    return undefined;
  } finally {
    await refresh();
  }
};

/** An action that changes nothing which is shown. */
export const act = createAction(() => {});

/** Says the state after a pause is lifted: another may stop the same jobs. */
export const describeResume = (name) => (answer) =>
  [
    `${name} is ${answer.paused ? "still paused" : "resumed"}`,
    ...(answer.left ?? []).flatMap(({ next }) => next.map(({ words }) => words)),
  ].join(". ");

const dismiss = (id) => toasts.set((now) => now.filter((toast) => toast.id !== id));

/** Where they appear; once, in the shell. */
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
