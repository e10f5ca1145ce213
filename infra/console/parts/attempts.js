// A job's attempts as a table, with errors and workers.

import { between, counted, duration } from "../lib/format.js";
import { ATTEMPT_OUTCOMES } from "../lib/states.js";
import { html } from "../lib/ui.js";
import { JsonView } from "./json-view.js";
import { Differs, Origin, placeOf, Traceback } from "./traceback.js";
import { When } from "./when.js";

/** @import { Attempt, Job } from "../lib/jobs/types.js" */

const MOST_LINES = 200;

const toneOf = (/** @type {Attempt} */ attempt) =>
  ATTEMPT_OUTCOMES[/** @type {keyof ATTEMPT_OUTCOMES} */ (attempt.outcome)]?.tone ?? "processing";
const wordOf = (/** @type {Attempt} */ attempt) =>
  ATTEMPT_OUTCOMES[/** @type {keyof ATTEMPT_OUTCOMES} */ (attempt.outcome)]?.word ?? "Running";

/** @param {{attempts: Attempt[]}} props As `job_attempts` gives them. */
export function AttemptsTable({ attempts }) {
  const shown = attempts.slice(-MOST_LINES);
  return html`${shown.length < attempts.length && html`<p class="muted small num">The latest ${MOST_LINES} of ${counted(attempts.length, "attempt")}.</p>`}<div class="scroll-x" tabindex="0" role="group" aria-label="Attempts"><table class="table">
    <thead><tr><th scope="col" class="num">Attempt</th><th scope="col">Outcome</th><th scope="col">Started</th><th scope="col" class="num">Duration</th><th scope="col">Worker</th><th scope="col">Error</th></tr></thead>
    <tbody>${shown.map(
      (attempt) => html`<tr key=${attempt.fence}>
        <td class="num">${attempt.attempt}</td>
        <td><span class="badge" data-tone=${toneOf(attempt)}>${wordOf(attempt)}</span></td>
        <td><${When} at=${attempt.leased_at} /></td>
        <td class="num">${attempt.ended_at ? duration(between(attempt.leased_at, attempt.ended_at)) : "running"}</td>
        <td class="mono small">${attempt.worker_id}</td>
        <td class="wrap">${attempt.error_message ?? ""}${placeOf(attempt.traceback) && html` <span class="mono small muted">${placeOf(attempt.traceback)}</span>`}<${Details} attempt=${attempt} /></td>
      </tr>`,
    )}</tbody>
  </table></div>`;
}

/** @param {{attempt: Attempt}} props */
function Details({ attempt }) {
  if (!attempt.traceback && !attempt.differs && !attempt.origin) return null;
  if (!attempt.error_message) return html`<${Origin} attempt=${attempt} />`;
  return html`<details class="more"><summary>${attempt.traceback ? "Traceback" : "More"}</summary>${attempt.traceback && html`<${Traceback} traceback=${attempt.traceback} />`}<${Differs} differs=${attempt.differs} /><${Origin} attempt=${attempt} /></details>`;
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
  return html`<section class=${job.status === "failed" ? "card error-card" : "card"} aria-labelledby="h-error"><h2 id="h-error">${job.status === "failed" ? "Error" : "Last error"}${type && html` <span class="mono muted">${type}</span>`}${placeOf(last?.traceback) && html` <span class="muted">at</span> <span class="mono">${placeOf(/** @type {Attempt} */ (last).traceback)}</span>`}</h2>
    <p class="error-text">${job.error_message}</p>
    ${last?.traceback && html`<${Traceback} traceback=${last.traceback} />`}
    ${last?.has_traceback && !last.traceback && html`<p class="muted small">There is a traceback; managers of the workspace may read it.</p>`}
    ${last && html`<${Differs} differs=${last.differs} /><${Origin} attempt=${last} />`}
    ${
      last &&
      html`<button type="button" class="quiet" onClick=${() => {
        document.getElementById("h-log")?.scrollIntoView();
        document.dispatchEvent(
          new CustomEvent("minutehand:show-attempt", { detail: last.attempt }),
        );
      }}>Its log lines</button>`
    }
    ${job.error_data && html`<details class="more" open=${job.status === "failed" && !last?.traceback}><summary>Details</summary><${JsonView} value=${job.error_data} label="Error details" /></details>`}</section>`;
}
