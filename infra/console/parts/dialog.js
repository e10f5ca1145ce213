// Dialogs over the browser's own <dialog>: focus is kept inside and given back.

import { createStore, useStore } from "../lib/store.js";
import { html, useEffect, useId, useLayoutEffect, useRef, useState } from "../lib/ui.js";

/** @import { ComponentChildren } from "preact" */
/**
 * @typedef {{title: string, text: string, action: string, danger?: boolean, field?: string}} Confirmation `field` is
 *   the label of a line to fill in, which may stay empty.
 */

/** @param {{title: string, onClose: () => void, wide?: boolean, children?: ComponentChildren}} props */
export function Dialog({ title, onClose, wide = false, children }) {
  /** @type {{current: HTMLDialogElement}} */
  const ref = useRef(null);
  const heading = useId();
  // before the next key press, which may follow at once: after painting, it would miss the dialog
  useLayoutEffect(() => {
    const before = /** @type {HTMLElement | null} */ (document.activeElement);
    const dialog = ref.current;
    dialog.showModal();
    return () => {
      dialog.close(); // first: while it is open, the rest of the page cannot take the focus
      if (before?.isConnected) before.focus?.();
    };
  }, []);
  return html`<dialog
    ref=${ref}
    class=${wide ? "dialog wide" : "dialog"}
    aria-labelledby=${heading}
    onCancel=${(/** @type {Event} */ event) => {
      event.preventDefault();
      onClose();
    }}
    onMouseDown=${(/** @type {MouseEvent} */ event) => event.target === ref.current && onClose()}>
    <div class="dialog-body">
      <h2 id=${heading}>${title}</h2>
      ${children}
    </div>
  </dialog>`;
}

const question = createStore(
  /** @type {(Confirmation & {answer: (value: string | null) => void}) | null} */ (null),
);

/**
 * Ask before doing something that is hard to undo.
 *
 * @param {Confirmation} what
 */
export const confirm = async (what) => (await askFor(what)) !== null;

/**
 * Ask, and for a line of text with it: null for no.
 *
 * @param {Confirmation} what
 * @returns {Promise<string | null>}
 */
export function askFor(what) {
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
          onInput=${(/** @type {{target: HTMLInputElement}} */ event) => void (text.current = event.target.value.trim())} />
      </label>`
    }
    <div class="actions">
      <button type="button" onClick=${() => asked.answer(null)}>Keep it</button>
      <button
        type="button"
        class=${asked.danger ? "danger" : "primary"}
        autofocus
        onClick=${() => asked.answer(text.current)}>
        ${asked.action}
      </button>
    </div>
  <//>`;
}

/**
 * A button that runs something once at a time and shows that it does.
 *
 * @param {{run: () => unknown, children: ComponentChildren, className?: string, disabled?: boolean,
 *   [attribute: string]: unknown}} props More attributes are the button's own.
 */
export function ActionButton({ run, children, className = "", disabled = false, ...rest }) {
  const [busy, setBusy] = useState(false);
  const alive = useRef(true);
  useEffect(
    () => () => {
      alive.current = false;
    },
    [],
  );
  const click = async () => {
    if (busy) return;
    setBusy(true);
    try {
      await run();
    } finally {
      if (alive.current) setBusy(false);
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
