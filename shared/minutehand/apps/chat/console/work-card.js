// A work item as a card: how far it is, what it asks, and what can be done to it.

import { stateOf } from "../../lib/states.js";
import { html, useState } from "../../lib/ui.js";
import { StateBadge } from "../../parts/badge.js";
import { ActionButton } from "../../parts/dialog.js";
import { JobProgress } from "../../parts/job-progress.js";
import { When } from "../../parts/when.js";
import { isOver } from "./data.js";

/** @import { SessionJob } from "../../lib/jobs/types.js" */
/** @import { WorkItem } from "./routes.js" */

const KINDS = {
  research: "Research",
  summarise: "Summary",
  compare: "Comparison",
  draft: "Draft",
  build: "Build",
};

/**
 * @param {{item: WorkItem, live?: SessionJob, href: string | null, onAnswer: (text: string) => Promise<void>,
 *   onCancel: () => Promise<void>, onRetry: () => Promise<void>}} props `live` is its job's row,
 *   newer than the item; `href` leads to its job, where the reader may go there.
 */
export function WorkCard({ item, live, href, onAnswer, onCancel, onRetry }) {
  const isNewer = live && (live.last_seq ?? 0) >= (item.last_seq ?? 0);
  const status = isNewer ? live.status : item.status;
  const progress = (isNewer ? live.progress : item.progress) ?? null;
  // the text being written is the result's, and comes as a message
  const isAsking = status === "waiting" && item.question;
  const words = isAsking
    ? "Waits for your answer"
    : progress?.stage?.startsWith("text:")
      ? "Writing the result"
      : progress?.message;
  const shown = { ...progress, message: words };
  const isStopping =
    Boolean(live?.cancel_requested_at ?? item.cancel_requested_at) && !isOver(status);
  return html`<section class=${isAsking ? "card question" : "card"} id=${`work-${item.work_item_id}`} tabindex="-1" data-item=${item.work_item_id} data-status=${status} aria-label=${`${KINDS[item.kind]}: ${stateOf(status).word}`}>
    <div class="bar"><span class="strong wrap grow">${item.title}</span><${StateBadge} status=${status} cancelling=${isStopping} /></div>
    ${!isOver(status) && html`<${JobProgress} job=${{ status, progress: shown }} />`}
    ${isAsking && html`<${Asking} key=${`${item.attempts} ${item.question_name}`} of=${item} onAnswer=${onAnswer} />`}
    ${status === "failed" && item.error_message && html`<p class="problem">${item.error_message}</p>`}
    ${status === "pending" && item.next_retry_at && html`<p class="muted small wrap">${item.error_message} It is tried again <${When} at=${item.next_retry_at} />.</p>`}
    <div class="actions start">
      ${!isOver(status) && html`<${ActionButton} className="danger" disabled=${isStopping} run=${onCancel}>Cancel<//>`}
      ${(status === "failed" || status === "cancelled") && html`<${ActionButton} run=${onRetry}>Try again<//>`}
      ${href && html`<a class="small" href=${href}>Its job and log</a>`}</div>
  </section>`;
}

/** @param {{of: WorkItem, onAnswer: (text: string) => Promise<void>}} props */
function Asking({ of, onAnswer }) {
  const [text, setText] = useState("");
  return html`
    <p class="question-text">${of.question}</p>
    ${of.question_options && html`<div class="actions start" role="group" aria-label="Answers">${of.question_options.map((option) => html`<${ActionButton} key=${option} run=${() => onAnswer(option)}>${option}<//>`)}</div>`}
    <form class="answer" onSubmit=${(/** @type {SubmitEvent} */ event) => {
      event.preventDefault();
      if (text.trim()) onAnswer(text.trim());
    }}>
      <label class="grow"><span class="hidden">Your answer</span><textarea rows="2" maxlength="2000" value=${text} placeholder=${of.question_options ? "Or in your own words" : "Your answer"} onInput=${(/** @type {{target: HTMLTextAreaElement}} */ event) => setText(event.target.value)}></textarea></label>
      <button type="submit" class="primary" disabled=${!text.trim()}>Answer</button></form>
    ${of.question_expires_at && html`<p class="muted small">If no one answers, it takes “${of.question_default}” <${When} at=${of.question_expires_at} />.</p>`}`;
}
