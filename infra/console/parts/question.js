// Shows the question of a job that waits for an answer by a person.

import { jobs } from "../api.js";
import { pretty } from "../lib/format.js";
import { html, useState } from "../lib/ui.js";
import { ActionButton } from "./dialog.js";
import { createAction } from "./toasts.js";
import { When } from "./when.js";

const label = (option) =>
  typeof option === "object" && option !== null
    ? (option.label ?? option.value ?? pretty(option))
    : String(option);
const valueOf = (option) =>
  typeof option === "object" && option !== null && "value" in option ? option.value : option;

/** Return the text of a wait's question, or nothing if the wait has no question. */
export const questionOf = (wait) =>
  typeof wait?.question === "object" ? pretty(wait.question) : wait?.question;

/** Card with the question of a job. When a person answers the question, the job continues. */
export function Question({ jobId, wait, onAnswered }) {
  const send = (answer) =>
    createAction(onAnswered)(
      "Could not answer",
      () => jobs.answer(jobId, { body: { answer, name: wait.name } }),
      "Answered. The job continues.",
    );
  const options = Array.isArray(wait.options) ? wait.options : [];
  return html`<section class="card question" aria-label="Question">
    <${AnswerForm}
      question=${questionOf(wait)}
      options=${options}
      isFree=${options.length === 0}
      send=${send} />
    ${
      wait.until &&
      html`<p class="muted small">
        If no one answers, the job continues <${When} at=${wait.until} />.
      </p>`
    }
  </section>`;
}

export function AnswerForm({ question, options, isFree, maxLength, send }) {
  const [text, setText] = useState("");
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    if (!text.trim() || busy) return;
    setBusy(true);
    await send(text.trim());
    setBusy(false);
  };
  return html`
    <p class="question-text">${question}</p>
    ${
      options.length > 0 &&
      html`<div class="actions start" role="group" aria-label="Answers">
        ${options.map(
          (option, index) => html`<${ActionButton} key=${index} run=${() => send(valueOf(option))}>
            ${label(option)}
          <//>`,
        )}
      </div>`
    }
    ${
      isFree &&
      html`<form class="answer" onSubmit=${submit}>
        <label class="grow">
          <span class="hidden">Your answer</span>
          <textarea
            rows="2"
            maxlength=${maxLength}
            value=${text}
            placeholder=${options.length > 0 ? "Or in your own words" : "Your answer"}
            onInput=${(event) => setText(event.target.value)}></textarea>
        </label>
        <button type="submit" class="primary" disabled=${busy || !text.trim()}>Answer</button>
      </form>`
    }
  `;
}
