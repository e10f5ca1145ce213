// Deleting what a page shows: while that runs, nothing of it is read or followed any more.

import { html, useState } from "../lib/ui.js";
import { confirm } from "./dialog.js";
import { Loading } from "./states-of-view.js";
import { notifyFailure } from "./toasts.js";

/**
 * @typedef {(question: {title: string, text: string}, call: () => Promise<unknown>, then: () => void)
 *   => Promise<void>} Remove Asks first; `then` runs once `call` has deleted it.
 */

/**
 * @returns {{isGoing: boolean, remove: Remove}} While `isGoing` the page shows `Going` in place of what is
 *   deleted: a read would find it missing before the deletion is answered.
 */
export function useRemoval() {
  const [isGoing, setIsGoing] = useState(false);
  /** @type {Remove} */
  const remove = async (question, call, then) => {
    if (!(await confirm({ ...question, action: "Delete", danger: true }))) return;
    setIsGoing(true);
    try {
      await call();
      then();
    } catch (error) {
      setIsGoing(false);
      notifyFailure("Could not delete", error);
    }
  };
  return { isGoing, remove };
}

/** @param {{what: string}} props What is being deleted, as its page's heading has it. */
export const Going = ({ what }) =>
  html`<div class="page"><h1 tabindex="-1">${what}</h1><${Loading} what="Deleting" /></div>`;
