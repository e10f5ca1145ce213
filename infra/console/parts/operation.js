// Of one bulk operation: its state, how far it is, and what can be done to it.

import { bulk } from "../api.js";
import { counted, number } from "../lib/format.js";
import { html } from "../lib/ui.js";
import { Tag } from "./badge.js";
import { ActionButton } from "./dialog.js";
import { JobProgress } from "./job-progress.js";
import { actionsOn } from "./toasts.js";

/** @import { Operation } from "../lib/routes.js" */

/** @type {Record<Operation["status"], {word: string, tone: string, status: string}>} */
const STATES = {
  running: { word: "Running", tone: "processing", status: "processing" },
  paused: { word: "Paused", tone: "waiting", status: "waiting" },
  stopped: { word: "Stopped", tone: "cancelled", status: "cancelled" },
  completed: { word: "Completed", tone: "completed", status: "completed" },
};

/** How often one that runs is read again. */
export const POLL_MS = 1500;

/** @param {{operation: Operation}} props */
export const OperationState = ({ operation }) =>
  html`<${Tag} tone=${STATES[operation.status].tone}>${STATES[operation.status].word}<//>`;

/** @param {{operation: Operation}} props */
export function OperationProgress({ operation }) {
  const { matched, done, skipped, failed, counted: isCounted, status } = operation;
  const acted = done + skipped + failed;
  const words = [
    `${number(done)} of ${isCounted ? counted(matched, "job") : `${number(matched)} and more`}`,
    skipped > 0 && `${number(skipped)} skipped`,
    failed > 0 && `${number(failed)} failed`,
    operation.more && "others match",
    operation.reason,
  ];
  const progress = {
    percentage: matched ? Math.floor((100 * acted) / matched) : 0,
    message: words.filter(Boolean).join(", "),
  };
  return html`<${JobProgress} job=${{ status: STATES[status].status, progress }} />`;
}

/** @param {{operation: Operation, refresh: () => void}} props */
export function OperationActions({ operation, refresh }) {
  const { id, name, action, status, done, undone_by: undoneBy } = operation;
  const act = actionsOn(refresh);
  const isOpen = status === "running" || status === "paused";
  const steer = (/** @type {"pause" | "resume" | "stop"} */ verb, /** @type {string} */ did) =>
    act(`Could not ${verb} it`, () => bulk.steer(id, verb), `${name} is ${did}`);
  const undo = () =>
    act("Could not undo it", () => bulk.undo(id), `${name} is being undone`, {
      title: `Undo ${name}?`,
      text:
        action === "cancel"
          ? `The ${counted(done, "job")} that it cancelled run again with fresh attempts, scheduled ones at their time.`
          : `Of the ${counted(done, "job")} that it made ready, those that have not started are cancelled.`,
      action: "Undo it",
    });
  const button = (/** @type {string} */ verb, /** @type {() => unknown} */ run) =>
    html`<${ActionButton} className="quiet" aria-label=${`${verb} ${name}`} run=${run}>${verb}<//>`;
  return html`
    ${status === "running" && button("Pause", () => steer("pause", "paused"))}
    ${status === "paused" && button("Resume", () => steer("resume", "resumed"))}
    ${isOpen && button("Stop", () => steer("stop", "stopped"))}
    ${done > 0 && !undoneBy && button("Undo", undo)}
    ${undoneBy && html`<a href=${`/bulk-operations/${undoneBy}`}>Undone</a>`}
  `;
}
