// A dialog whose form does one thing: its buttons, and what is said when that fails.

import { html, useState } from "../lib/ui.js";
import { Dialog } from "./dialog.js";

/** What a form shows of its sending: why it failed, and whether it is under way; a success takes the form away. */
export function useForm(run) {
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event, does = run) => {
    event.preventDefault();
    setBusy(true);
    setProblem(null);
    try {
      await does();
    } catch (error) {
      setProblem(error.message);
      setBusy(false);
    }
  };
  return { problem, busy, submit };
}

export function DialogForm(props) {
  const { title, action, doing = action, run, onClose, wide, disabled, below, children } = props;
  const { problem, busy, submit } = useForm(run);
  return html`<${Dialog} title=${title} onClose=${onClose} wide=${wide}>
    <form class="stack" onSubmit=${submit}>
      ${children}
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <div class="actions">
        <button type="button" onClick=${() => onClose()}>Close</button>
        <button type="submit" class="primary" disabled=${busy || disabled}>
          ${busy ? doing : action}
        </button>
      </div>
    </form>
    ${below}
  <//>`;
}
