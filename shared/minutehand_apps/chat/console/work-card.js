// A work item as a card: how far it is, what it asks, and what can be done to it.

import { stateOf } from "../../lib/states.js";
import { html } from "../../lib/ui.js";
import { StateBadge } from "../../parts/badge.js";
import { ActionButton } from "../../parts/dialog.js";
import { JobProgress } from "../../parts/job-progress.js";
import { Answering } from "../../parts/question.js";
import { When } from "../../parts/when.js";
import { isOver } from "./data.js";

/** @import { SessionJob } from "../../lib/jobs/types.js" */
/** @import { Question, Work } from "./data.js" */

/** @type {Record<string, string>} */
const KINDS = {
  research: "Research",
  summarise: "Summary",
  compare: "Comparison",
  draft: "Draft",
  build: "Build",
};

/** @type {Record<string, string>} */
const JOB_STATUS = { accepted: "pending", in_progress: "processing", waiting_for_user: "waiting" };

/**
 * @param {{item: Work, question?: Question, live?: SessionJob, href: string | null,
 *   onAnswer: (text: string) => Promise<unknown>, onCancel: () => Promise<unknown>}} props `live` is its job's
 *   row; `href` leads to its job, where the reader may go there.
 */
export function WorkCard({ item, question, live, href, onAnswer, onCancel }) {
  const status = live?.status ?? JOB_STATUS[item.status] ?? item.status;
  const progress = live?.progress ?? item.progress ?? null;
  const asked = status === "waiting" ? question : undefined;
  // the text being written is the result's, and comes as a message
  const words = asked
    ? "Waits for your answer"
    : live?.progress?.stage?.startsWith("text:")
      ? "Writing the result"
      : progress?.message;
  const isStopping = Boolean(live?.cancel_requested_at) && !isOver(status);
  const error = live?.error_message ?? item.error;
  return html`<section
    class=${asked ? "card question" : "card"}
    id=${item.id}
    tabindex="-1"
    data-item=${item.id}
    data-status=${status}
    aria-label=${`${KINDS[item.type]}: ${stateOf(status).word}`}>
    <div class="bar">
      <span class="strong wrap grow">${item.title}</span>
      <${StateBadge} status=${status} cancelling=${isStopping} />
    </div>
    ${
      !isOver(status) &&
      html`<${JobProgress} job=${{ status, progress: { ...progress, message: words } }} />`
    }
    ${
      asked &&
      html`
        <${Answering}
          key=${asked.id}
          question=${asked.content}
          options=${asked.options ?? []}
          isFree
          most=${2000}
          send=${onAnswer} />
        <p class="muted small">
          If no one answers, it takes “${asked.default}” <${When}
            at=${new Date(asked.expiresAt).toISOString()} />.
        </p>
      `
    }
    ${status === "failed" && error && html`<p class="problem">${error}</p>`}
    ${
      status === "pending" &&
      live?.next_retry_at &&
      html`<p class="muted small wrap">
        ${error} It is tried again <${When} at=${live.next_retry_at} />.
      </p>`
    }
    <div class="actions start">
      ${
        !isOver(status) &&
        html`<${ActionButton} className="danger" disabled=${isStopping} run=${onCancel}>
          Cancel
        <//>`
      }
      ${
        href &&
        html`<a class="small" href=${href}>
          ${status === "failed" || status === "cancelled" ? "Its job, to run it again" : "Its job and log"}
        </a>`
      }
    </div>
  </section>`;
}
