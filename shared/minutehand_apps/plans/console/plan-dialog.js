// Asks what is to be planned, and how thoroughly. The API says what is wrong.

import { html, useMemo, useState } from "../../lib/ui.js";
import { DialogForm } from "../../parts/dialog-form.js";
import { plans, SPEEDS } from "./data.js";

/** @import { Created, NewPlan } from "./routes.js" */

const key = () => crypto.randomUUID?.() ?? String(Math.random());

/** @param {{workspaceId: string, onClose: () => void, onCreated: (plan: Created) => void}} props */
export function PlanDialog({ workspaceId, onClose, onCreated }) {
  const [prompt, setPrompt] = useState("");
  const [speed, setSpeed] = useState(
    /** @type {NewPlan["speed_vs_detail"]} */ ("balanced_speed_and_detail"),
  );
  const [asks, setAsks] = useState(false);
  // the same key for the same form: pressing twice creates one plan
  const attempt = useMemo(key, [prompt, speed, asks]);
  const submit = async () => {
    onCreated(
      await plans.create({
        workspace_id: workspaceId,
        prompt: prompt.trim(),
        speed_vs_detail: speed,
        ask_seconds: asks ? 86_400 : 0,
        idempotency_key: attempt,
      }),
    );
  };
  return html`<${DialogForm}
    title="New plan"
    action="Plan it"
    doing="Creating…"
    run=${submit}
    onClose=${onClose}
    wide>
    <label class="field">
      <span>
        Prompt <span class="hint">what, how much, by when, for how much, by how many people</span>
      </span>
      <textarea
        rows="6"
        required
        maxlength="8000"
        value=${prompt}
        placeholder="Organise a one-day fair for 200 guests on 12 June 2027 with a budget of EUR 9,000."
        onInput=${(/** @type {Event & {target: HTMLTextAreaElement}} */ event) => setPrompt(event.target.value)}></textarea>
    </label>
    <fieldset class="stack">
      <legend>Speed and detail</legend>
      ${SPEEDS.map(
        ({ value, label, hint }) =>
          html`<label key=${value} class="field-inline">
            <input
              type="radio"
              name="speed"
              value=${value}
              checked=${speed === value}
              onChange=${() => setSpeed(value)} /> ${label} <span
              class="hint">
              ${hint}
            </span>
          </label>`,
      )}
    </fieldset>
    <label class="field-inline">
      <input type="checkbox" checked=${asks} onChange=${() => setAsks(!asks)} /> Ask me first <span
        class="hint">
        at most three questions, each of which can be skipped
      </span>
    </label>
  <//>`;
}
