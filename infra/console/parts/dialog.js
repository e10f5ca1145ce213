// Dialogs, forms and buttons. While a dialog is open, the keyboard focus stays inside the dialog.
// When the dialog closes, the focus returns to the element that had the focus before.

import { question } from "../lib/prompt.js";
import { useStore } from "../lib/store.js";
import { html, useId, useLayoutEffect, useRef, useState } from "../lib/ui.js";
import { field } from "./field.js";
import { Sentence } from "./when.js";

export function Dialog({ title, onClose, wide = false, children }) {
  const ref = useRef(null);
  const heading = useId();
  // open the dialog before painting, because the next key press may follow immediately
  useLayoutEffect(() => {
    const before = document.activeElement;
    const dialog = ref.current;
    dialog.showModal();
    return () => {
      dialog.close(); // before the focus moves, because an open dialog keeps the focus
      if (before?.isConnected) before.focus?.();
    };
  }, []);
  return html`<dialog
    ref=${ref}
    class=${wide && "wide"}
    aria-labelledby=${heading}
    onCancel=${(event) => {
      event.preventDefault();
      onClose();
    }}
    onMouseDown=${(event) => event.target === ref.current && onClose()}>
    <div class="dialog-body">
      <h2 id=${heading}>${title}</h2>
      ${children}
    </div>
  </dialog>`;
}

/**
 * Dialog that shows the question which the console currently asks. The frame of the console
 * contains this dialog once.
 */
export function Confirmations() {
  const openQuestion = useStore(question);
  const text = useRef("");
  useLayoutEffect(() => void (text.current = ""), [openQuestion]);
  useLayoutEffect(() => () => question.get()?.answer(null), []); // another user must not answer it
  if (!openQuestion) return null;
  return html`<${Dialog} title=${openQuestion.title} onClose=${() => openQuestion.answer(null)}>
    <p><${Sentence} text=${openQuestion.text} /></p>
    ${
      openQuestion.field &&
      field(openQuestion.field, undefined, (value) => void (text.current = value.trim()), {
        maxlength: "200",
      })
    }
    <div class="actions">
      <button type="button" autofocus=${!openQuestion.field}
        onClick=${() => openQuestion.answer(null)}>
        Not now
      </button>
      <button
        type="button"
        class=${openQuestion.danger ? "danger" : "primary"}
        onClick=${() => openQuestion.answer(text.current)}>
        ${openQuestion.action}
      </button>
    </div>
  <//>`;
}

/**
 * Return a ref for an element inside of which the keyboard focus stays. If the node with the focus
 * disappears, the first enabled button of the element gets the focus.
 */
export function useFocusKeeper() {
  const box = useRef(null);
  const hadFocus = box.current?.contains(document.activeElement);
  useLayoutEffect(() => {
    if (hadFocus && !box.current?.contains(document.activeElement))
      (box.current?.querySelector("button:enabled") ?? document.querySelector("h1"))?.focus();
  });
  return box;
}

/** Button that runs an action. While the action runs, the button is disabled and looks busy. */
export function ActionButton({ run, children, className = "", disabled = false, ...rest }) {
  const [busy, setBusy] = useState(false);
  const click = async () => {
    if (busy) return;
    setBusy(true);
    try {
      await run();
    } finally {
      setBusy(false);
    }
  };
  return html`<button
    type="button"
    class=${className}
    onClick=${click}
    disabled=${disabled}
    aria-busy=${busy}
    aria-disabled=${busy}
    ...${rest}>
    ${children}
  </button>`;
}

/**
 * Return the state of a form: its function `submit`, its error (`problem`), and whether a
 * submission is in flight (`busy`).
 */
export function useForm(run) {
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event, action = run) => {
    event.preventDefault();
    setBusy(true);
    setProblem(null);
    try {
      await action();
    } catch (error) {
      setProblem(error.message);
      setBusy(false);
    }
  };
  return { problem, busy, submit };
}

export function DialogForm(props) {
  const { title, action, doing = action, run, onClose, wide, disabled, children } = props;
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
  <//>`;
}
