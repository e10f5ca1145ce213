// Deleting what a page shows: while that runs, nothing of it is read or followed any more.

import { html, useState } from "../lib/ui.js";
import { confirm } from "./dialog.js";
import { Loading } from "./states-of-view.js";
import { notifyFailure } from "./toasts.js";

export function useRemoval() {
  const [isGoing, setIsGoing] = useState(false);
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

export const Going = ({ what }) =>
  html`<div class="page"><h1 tabindex="-1">${what}</h1><${Loading} what="Deleting" /></div>`;
