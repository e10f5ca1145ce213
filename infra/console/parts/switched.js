// What is switched on and off: its state in a word, and the buttons of its row.

import { html } from "../lib/ui.js";
import { Tag } from "./badge.js";
import { quiet } from "./button.js";
import { ActionButton } from "./dialog.js";

/**
 * On, off, or out of order.
 *
 * @param {{isOn: boolean, problem?: string | null, word?: string}} props `word` in place of `Problem`.
 */
export const OnOff = ({ isOn, problem = null, word = "Problem" }) =>
  problem === null
    ? html`<${Tag} tone=${isOn ? "completed" : "pending"}>${isOn ? "On" : "Off"}<//>`
    : html`<${Tag} tone="failed">${word}<//> <span class="wrap">${problem}</span>`;

/**
 * Switch, edit, delete.
 *
 * @param {{name: string, isOn: boolean, onSwitch: () => Promise<unknown>, onEdit: () => void, onDelete: () => void}} props
 */
export const SwitchedActions = ({ name, isOn, onSwitch, onEdit, onDelete }) => {
  const word = isOn ? "Switch off" : "Switch on";
  const button = (/** @type {string} */ verb, /** @type {() => void} */ run) =>
    quiet(verb, run, { "aria-label": `${verb} ${name}` });
  return html`
    <${ActionButton} className="quiet" aria-label=${`${word} ${name}`} run=${onSwitch}>${word}<//>
    ${button("Edit", onEdit)} ${button("Delete", onDelete)}
  `;
};
