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
/** @import { Page, Reply, Said } from "./data.js" */

/** Who says a message. */
function speaker(/** @type {Said} */ message) {
  if (message.role !== "user") return "Assistant";
  if (message.mine) return "You";
  return message.byGuest ? "A guest" : "A member";
}

/** @type {Record<string, string>} */
const TIERS = { instant: "Instant", standard: "Answered directly", async: "Background work" };

/**
 * A page that work has built, in a frame that runs its script and reaches nothing else.
 *
 * @param {{of: Page}} props
 */
function Artefact({ of }) {
  const address = apiAddress(of.url);
  return html`<figure class="chat-artefact" data-artefact=${of.type}>
    <figcaption class="bar">
      <span class="strong wrap grow">${of.title}</span>
      <a class="small" href=${address} target="_blank" rel="noopener noreferrer">
        Open in a new tab
      </a>
    </figcaption>
    <iframe
      sandbox="allow-scripts"
      src=${address}
      title=${of.title}
      loading="lazy"
      referrerpolicy="no-referrer"></iframe>
  </figure>`;
}

/** @param {{message: Said}} props */
export function Message({ message }) {
  const tier = TIERS[message.tier ?? ""];
  return html`<article
    class=${message.role === "user" ? "chat-bubble mine" : "chat-bubble"}
    data-kind=${message.kind}
    data-seq=${message.seq}>
    <div class="chat-head">
      <span class="strong">${speaker(message)}</span>
      ${message.title && html`<span class="wrap">${message.title}</span>`}
      ${tier && html`<${Tag} tone=${message.tier === "async" ? "processing" : "pending"}>${tier}<//>`}
      <${When} at=${new Date(message.timestamp).toISOString()} />
    </div>
    ${message.question && html`<p class="hint">${message.question}</p>`}
    <p>${message.content}</p>
    ${message.result?.artefact && html`<${Artefact} of=${message.result.artefact} />`}
    ${
      message.documents &&
      html`<ul class="chat-texts" aria-label="Texts that came with it">
        ${message.documents.map(
          (text, index) => html`<li key=${index}>
            ${text.title} <span class="num">(${number(text.characters)} characters)</span>
          </li>`,
        )}
      </ul>`
    }
    ${message.model && html`<p class="muted small wrap">Written by ${message.model}</p>`}
  </article>`;
}

/**
 * @param {{reply: Reply, live?: SessionJob, text: Written | undefined, onStop: () => Promise<unknown>}} props
 *   `live` is its job's row.
 */
export function ComingReply({ reply, live, text, onStop }) {
  const status = live?.status ?? reply.status;
  const words = text?.text ? `${text.from > 0 ? "… " : ""}${text.text}` : "";
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
  return html`<article class="chat-bubble" data-reply=${reply.jobId} data-status=${status}>
    <div class="chat-head"><span class="strong">Assistant</span><span>${does}</span></div>
    ${words && !isOver(status) && html`<p data-live>${words}</p>`}
    ${status === "failed" && html`<p class="problem">${live?.error_message ?? reply.error}</p>`}
    ${
      !isOver(status) &&
      html`<div class="actions start">
        <${ActionButton} className="quiet" run=${onStop}>Stop<//>
      </div>`
    }
  </article>`;
}
