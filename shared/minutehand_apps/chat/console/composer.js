// Where a message is written: Enter sends it, Shift and Enter begin a line.

import { html, useLayoutEffect, useRef, useState } from "../../lib/ui.js";
import { newKey } from "./data.js";

/** @import { NewMessage } from "./data.js" */
/** @typedef {{text: string, mode: NewMessage["mode"]}} Form */
/** @typedef {{key: string, title: string, text: string}} Text A text that is sent with the message. */

/** @type {Form} */
const EMPTY = { text: "", mode: "auto" };

/** @param {{onSend: (message: NewMessage) => Promise<void>}} props `onSend` throws when it is refused. */
export function Composer({ onSend }) {
  const [form, setForm] = useState(EMPTY);
  const [texts, setTexts] = useState(/** @type {Text[]} */ ([]));
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState(/** @type {string | null} */ (null));
  // the same id for the same words: sent twice, it is one message
  const [clientId, setClientId] = useState(newKey);
  const box = useRef(/** @type {HTMLTextAreaElement | null} */ (null));
  const change = (/** @type {Partial<Form>} */ changes) => {
    setForm((now) => ({ ...now, ...changes }));
    setClientId(newKey());
  };
  const changeText = (/** @type {number} */ index, /** @type {Partial<Text>} */ changes) => {
    setTexts((now) => now.map((one, place) => (place === index ? { ...one, ...changes } : one)));
    setClientId(newKey());
  };
  useLayoutEffect(() => {
    const field = /** @type {HTMLTextAreaElement} */ (box.current);
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight + 2}px`;
  }, [form.text]);
  const submit = async (/** @type {Event} */ event) => {
    event?.preventDefault();
    if (busy || !form.text.trim()) return;
    setBusy(true);
    setProblem(null);
    try {
      await onSend({
        text: form.text.trim(),
        mode: form.mode,
        client_id: clientId,
        documents: texts
          .filter(({ text }) => text.trim())
          .map(({ title, text }, index) => ({ title: title.trim() || `Text ${index + 1}`, text })),
      });
      // what was written meanwhile stays
      setForm((now) => (now.text === form.text ? { ...now, text: "" } : now));
      setTexts((now) => now.filter((one) => !texts.includes(one)));
      setClientId(newKey());
    } catch (error) {
      setProblem(error.message);
    }
    setBusy(false);
    // what was chosen meanwhile keeps the focus
    const at = document.activeElement;
    if (at === document.body || box.current?.form?.contains(at)) box.current?.focus();
  };
  const onKeyDown = (/** @type {KeyboardEvent} */ event) => {
    // while a word is being composed, Enter ends the word
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  return html`<form onSubmit=${submit} aria-label="New message">
    ${texts.map(
      (one, index) => html`<fieldset key=${one.key} class="card stack">
        <legend>Text ${index + 1}</legend>
        <label class="field">
          <span>Title</span>
          <input
            type="text"
            maxlength="200"
            value=${one.title}
            onInput=${(/** @type {{target: HTMLInputElement}} */ event) => changeText(index, { title: event.target.value })} />
        </label>
        <label class="field">
          <span>Text</span>
          <textarea
            rows="3"
            maxlength="20000"
            value=${one.text}
            onInput=${(/** @type {{target: HTMLTextAreaElement}} */ event) => changeText(index, { text: event.target.value })}></textarea>
        </label>
        <div class="actions start">
          <button
            type="button"
            class="quiet"
            onClick=${() => {
              setTexts((now) => now.filter((other) => other !== one));
              setClientId(newKey());
            }}>
            Remove text ${index + 1}
          </button>
        </div>
      </fieldset>`,
    )}
    <label>
      <span class="hidden">Message</span>
      <textarea
        ref=${box}
        rows="2"
        maxlength="8000"
        placeholder="Say something; Enter sends it"
        value=${form.text}
        onInput=${(/** @type {{target: HTMLTextAreaElement}} */ event) => change({ text: event.target.value })}
        onKeyDown=${onKeyDown}></textarea>
    </label>
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <div class="bar">
      <label class="field-inline">
        <span aria-hidden="true">Answer</span>
        <select
          aria-label="Answer"
          value=${form.mode}
          onChange=${(/** @type {{target: {value: Form["mode"]}}} */ event) => change({ mode: event.target.value })}>
          <option value="auto">as it needs</option>
          <option value="reply">at once</option>
          <option value="work">by background work</option>
        </select>
      </label>
      ${
        texts.length < 5 &&
        html`<button
          type="button"
          class="quiet"
          onClick=${() => setTexts((now) => [...now, { key: newKey(), title: "", text: "" }])}>
          Add a text
        </button>`
      }
      <span class="spacer"></span>
      <button type="submit" class="primary" disabled=${busy || !form.text.trim()}>
        ${busy ? "Sending…" : "Send"}
      </button>
    </div>
  </form>`;
}
