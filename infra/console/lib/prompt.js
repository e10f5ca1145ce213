// Confirmations before an action. The frame of the console shows the open question.

import { createStore } from "./store.js";

/** The open question, or null. */
export const question = createStore(null);

/** Ask for confirmation. Resolves to true or false. */
export const confirm = async (what) => (await promptText(what)) !== null;

/**
 * Ask for confirmation and a line of text. Resolves to the text, or to null if the person cancels.
 */
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
