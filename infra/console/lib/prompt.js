// Confirmations before an action. The shell draws the open question.

import { createStore } from "./store.js";

/** The open question, or null. */
export const question = createStore(null);

/** Ask for confirmation. Resolves to a boolean. */
export const confirm = async (what) => (await promptText(what)) !== null;

/** Ask for confirmation and a line of text. Resolves to the text, or null if declined. */
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
