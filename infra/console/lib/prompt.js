// Asks a person for confirmation before an action, by a question that the frame of the console
// shows.

import { createStore } from "./store.js";

/** The question that the console currently asks, or null. */
export const question = createStore(null);

/**
 * Ask the person for confirmation. The returned promise resolves to true if the person confirms,
 * otherwise to false.
 */
export const confirm = async (what) => (await promptText(what)) !== null;

/**
 * Ask the person for confirmation and a line of text. The returned promise resolves to the text, or
 * to null if the person cancels.
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
