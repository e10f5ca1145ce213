// Questions before an action; the shell draws them when there is one.

import { createStore } from "./store.js";

/** What is asked now, or null. */
export const question = createStore(null);

/** Ask before doing something that is hard to undo. */
export const confirm = async (what) => (await promptText(what)) !== null;

/** Ask, and for a line of text with it: null for no. */
export function promptText(what) {
  return new Promise((resolve) => {
    question.set({
      ...what,
      answer: (value) => {
        question.set(null);
        resolve(value);
      },
    });
  });
}
