// Dialogs over the browser's own <dialog>: focus is kept inside and given back.

import { question } from "../lib/prompt.js";
import { useStore } from "../lib/store.js";
import { html, useId, useLayoutEffect, useRef, useState } from "../lib/ui.js";
import { loadStyles } from "../lib/styles.js";

loadStyles("/styles/more.css");

export function Dialog({ title, onClose, wide = false, children }) {
  const ref = useRef(null);
  const heading = useId();
  // before the next key press, which may follow at once: after painting, it would miss the dialog
  useLayoutEffect(() => {
    const before = document.activeElement;
    const dialog = ref.current;
    dialog.showModal();
    return () => {
      dialog.close(); // first: while it is open, the rest of the page cannot take the focus
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

/** Where confirmations appear; once, in the shell. */
export function Confirmations() {
  const asked = useStore(question);
  const text = useRef("");
  useLayoutEffect(() => void (text.current = ""), [asked]);
  if (!asked) return null;
  return html`<${Dialog} title=${asked.title} onClose=${() => asked.answer(null)}>
    <p>${asked.text}</p>
    ${
      asked.field &&
      html`<label class="field">
        <span>${asked.field}</span>
        <input
          type="text"
          maxlength="200"
          onInput=${(event) => void (text.current = event.target.value.trim())} />
      </label>`
    }
    <div class="actions">
      <button type="button" autofocus=${asked.danger && !asked.field}
        onClick=${() => asked.answer(null)}>
        Keep it
      </button>
      <button
        type="button"
        class=${asked.danger ? "danger" : "primary"}
        autofocus=${!asked.danger && !asked.field}
        onClick=${() => asked.answer(text.current)}>
        ${asked.action}
      </button>
    </div>
  <//>`;
}

/**
 * A box whose focus stays in it: when what has it goes, the first button that can be takes it.
 */
export function useFocusKeeper() {
  const box = useRef(null);
  const held = box.current?.contains(document.activeElement);
  useLayoutEffect(() => {
    if (held && !box.current.contains(document.activeElement))
      (box.current.querySelector("button:enabled") ?? document.querySelector("h1"))?.focus();
  });
  return box;
}

/** A button that runs something once at a time and shows that it does. */
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

/** What a form shows of its sending: why it failed, and whether it is under way. */
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
