// A job's attempts as a table, with errors and workers.

import { jobs as api } from "../api.js";
import { between, counted, duration, errorLine } from "../lib/format.js";
import { outcomeOf } from "../lib/states.js";
import { html } from "../lib/ui.js";
import { Tag } from "./badge.js";
import { quiet } from "./button.js";
import { copy } from "./copy.js";
import { ActionButton } from "./dialog.js";
import { JsonView } from "./json-view.js";
import { notifyFailure } from "./toasts.js";
import { asText, Differs, EditorSetting, Origin, placeOf, Traceback } from "./traceback.js";
import { When } from "./when.js";
import { column, table } from "./table.js";

/** @import { Attempt, Job } from "../lib/jobs/types.js" */

const MOST_LINES = 200;

/** @param {{attempts: Attempt[]}} props As `job_attempts` gives them. */
export function AttemptsTable({ attempts }) {
  const shown = attempts.slice(-MOST_LINES);
  return html`
    ${
      shown.length < attempts.length &&
      html`<p class="muted small num">
        The latest ${MOST_LINES} of ${counted(attempts.length, "attempt")}.
      </p>`
    }
    ${table({ label: "Attempts", rows: shown, key: (attempt) => attempt.fence }, [
      column("Attempt", "num", (attempt) => attempt.attempt),
      column("Outcome", ({ outcome }) => {
        const { word, tone } = outcomeOf(outcome);
        return html`<${Tag} tone=${tone}>${word}<//>`;
      }),
      column("Started", (attempt) => html`<${When} at=${attempt.leased_at} />`),
      column("Duration", "num", (attempt) =>
        attempt.ended_at ? duration(between(attempt.leased_at, attempt.ended_at)) : "running",
      ),
      column("Worker", "mono small", (attempt) => attempt.worker_id),
      column(
        "Error",
        "wrap",
        (attempt) => html`
          ${errorLine(attempt) ?? ""}
          ${
            placeOf(attempt.traceback) &&
            html` <span class="mono small muted">${placeOf(attempt.traceback)}</span>
            `
          }
          <${Details} attempt=${attempt} />
        `,
      ),
    ])}
  `;
}

/** @param {{attempt: Attempt}} props */
function Details({ attempt }) {
  if (!attempt.traceback && !attempt.differs && !attempt.origin) return null;
  if (!attempt.error_message) return html`<${Origin} attempt=${attempt} />`;
  return html`<details class="more">
    <summary>${attempt.traceback ? "Traceback" : "More"}</summary>
    ${
      attempt.traceback &&
      html`<${Traceback} traceback=${attempt.traceback} origin=${attempt.origin} />`
    }
    <${Differs} differs=${attempt.differs} />
    <${Origin} attempt=${attempt} />
  </details>`;
}

/** Put the failure on the clipboard in words for a coding agent. */
async function copyPrompt(/** @type {string} */ id) {
  try {
    await copy((await api.prompt(id)).text, "Copied the prompt");
  } catch (error) {
    notifyFailure("The prompt could not be read", error);
  }
}

/**
 * What went wrong last, in full: the error, where, what is different from before, and where its log is.
 *
 * @param {{job: Job, attempts: Attempt[]}} props
 */
export function LastFailure({ job, attempts }) {
  const last = attempts.filter((attempt) => attempt.error_message).at(-1);
  if (!job.error_message || job.status === "completed") return null;
  const type = job.error_data?.type;
  const copyTraceback = () =>
    last?.traceback && copy(asText(last.traceback), "Copied the traceback");
  return html`<section
    class=${job.status === "failed" ? "card error-card" : "card"}
    aria-labelledby="h-error">
    <h2 id="h-error">
      ${job.status === "failed" ? "Error" : "Last error"}
      ${type && html` <span class="mono muted">${type}</span>`}
      ${
        placeOf(last?.traceback) &&
        html` <span class="muted">at</span> <span class="mono">
          ${placeOf(/** @type {Attempt} */ (last).traceback)}
        </span>
        `
      }
    </h2>
    <p class="error-text">${job.error_message}</p>
    ${
      last?.traceback &&
      html`
        <${Traceback} traceback=${last.traceback} origin=${last.origin} />
        <${EditorSetting} />
      `
    }
    ${
      last?.has_traceback &&
      !last.traceback &&
      html`<p class="muted small">
        There is a traceback; managers of the workspace may read it.
      </p>`
    }
    ${last && html`<${Differs} differs=${last.differs} /><${Origin} attempt=${last} />`}
    ${
      last &&
      html`<div class="actions start">
        ${last.traceback && quiet("Copy the traceback", copyTraceback)}
        <${ActionButton} className="quiet" run=${() => copyPrompt(job.id)}>Copy as prompt<//>
        ${quiet("Show log", () => {
          document.getElementById("h-log")?.scrollIntoView();
          document.dispatchEvent(
            new CustomEvent("minutehand:show-attempt", { detail: last.attempt }),
          );
        })}
      </div>`
    }
    ${
      job.error_data &&
      html`<details class="more" open=${job.status === "failed" && !last?.traceback}>
        <summary>Details</summary>
        <${JsonView} value=${job.error_data} label="Error details" />
      </details>`
    }
  </section>`;
}
