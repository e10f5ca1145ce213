// A message, and a reply that is still to come, as text nodes: what was written stays text.

import { apiAddress } from "../../api.js";
import { number } from "../../lib/format.js";
import { html } from "../../lib/ui.js";
import { Tag } from "../../parts/badge.js";
import { ActionButton } from "../../parts/dialog.js";
import { When } from "../../parts/when.js";
import { isOver } from "./data.js";

/** @import { SessionJob } from "../../lib/jobs/types.js" */
/** @import { Written } from "./join.js" */
/** @import { Reply, ShownMessage } from "./routes.js" */
/** @typedef {NonNullable<ShownMessage["data"]>} Data */
/** @typedef {{id: string}} Reader A member; a guest has none. */

/**
 * Who says a message, to a member or, without `reader`, to a guest.
 *
 * @param {ShownMessage} message
 * @param {Reader | undefined} reader
 */
function speaker(message, reader) {
  if (message.author !== "user") return "Assistant";
  if (reader ? message.created_by === reader.id : message.by_guest) return "You";
  return message.by_guest ? "A guest" : "A member";
}

/** @type {Record<string, string>} */
const TIERS = { instant: "Instant", standard: "Answered directly", async: "Background work" };

/**
 * A page that work has built, in a frame that runs its script and reaches nothing else.
 *
 * @param {{of: {type: string, title: string, url: string}}} props
 */
function Artefact({ of }) {
  const address = apiAddress(of.url);
  return html`<figure class="chat-artefact" data-artefact=${of.type}><figcaption class="bar"><span class="strong wrap grow">${of.title}</span><a class="small" href=${address} target="_blank" rel="noopener noreferrer">Open in a new tab</a></figcaption>
    <iframe sandbox="allow-scripts" src=${address} title=${of.title} loading="lazy" referrerpolicy="no-referrer"></iframe></figure>`;
}

/** @param {{message: ShownMessage, reader?: Reader}} props */
export function Message({ message, reader }) {
  const isUser = message.author === "user";
  return html`<article class=${isUser ? "chat-bubble mine" : "chat-bubble"} data-kind=${message.kind} data-seq=${message.seq}>
    <div class="chat-head"><span class="strong">${speaker(message, reader)}</span>${message.kind === "result" && html`<span class="wrap">${message.data?.title}</span>`}${TIERS[message.data?.tier] && html`<${Tag} tone=${/** @type {Data} */ (message.data).tier === "async" ? "processing" : "pending"}>${TIERS[/** @type {Data} */ (message.data).tier]}<//>`}<${When} at=${message.created_at} /></div>
    ${message.kind === "answer" && html`<p class="hint">${message.data?.question}</p>`}
    <p>${message.text}</p>
    ${message.data?.artefact && html`<${Artefact} of=${message.data.artefact} />`}
    ${message.documents.length > 0 && html`<ul class="chat-texts" aria-label="Texts that came with it">${message.documents.map((text, index) => html`<li key=${index}>${text.title} <span class="num">(${number(text.characters)} characters)</span></li>`)}</ul>`}
    ${message.data?.parts?.length > 0 && html`<details class="more"><summary>What it is made of</summary><dl class="stack">${/** @type {Data} */ (message.data).parts.map((/** @type {{title: string, text: string}} */ part, /** @type {number} */ index) => html`<div key=${index}><dt class="strong wrap">${part.title}</dt><dd class="wrap">${part.text}</dd></div>`)}</dl></details>`}
    ${message.model && html`<p class="muted small wrap">Written by ${message.model} · ${number(message.input_tokens + message.output_tokens)} tokens${message.cost_usd > 0 ? ` · ${message.cost_usd.toFixed(4)} US dollars` : ""}</p>`}
  </article>`;
}

/**
 * @param {{reply: Reply, live?: SessionJob, text: Written | undefined, onStop: () => Promise<void>,
 *   onRetry: () => Promise<void>}} props `live` is its job's row.
 */
export function ComingReply({ reply, live, text, onStop, onRetry }) {
  const isNewer = live && (live.last_seq ?? 0) >= reply.last_seq;
  const status = isNewer ? live.status : reply.status;
  const words = text?.text ? `${text.from > 0 ? "… " : ""}${text.text}` : "";
  const isStopped = status === "failed" || status === "cancelled";
  const does =
    status === "failed"
      ? "could not answer"
      : status === "cancelled"
        ? "was stopped"
        : words
          ? "is writing…"
          : status === "processing"
            ? "is thinking…"
            : "will answer soon";
  const error = (isNewer ? live.error_message : null) ?? reply.error_message;
  return html`<article class="chat-bubble" data-reply=${reply.job_id} data-status=${status}>
    <div class="chat-head"><span class="strong">Assistant</span><span>${does}</span></div>
    ${words && !isStopped && html`<p data-live>${words}</p>`}
    ${status === "failed" && html`<p class="problem">${error}</p>`}
    <div class="actions start">${isStopped && html`<${ActionButton} run=${onRetry}>Try again<//>`}${!isOver(status) && html`<${ActionButton} className="quiet" run=${onStop}>Stop<//>`}</div>
  </article>`;
}
