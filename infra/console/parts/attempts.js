// A job's attempts as a table, with errors and workers.

import { between, counted, duration } from "../lib/format.js";
import { ATTEMPT_OUTCOMES } from "../lib/states.js";
import { html } from "../lib/ui.js";
import { When } from "./when.js";

const MOST_LINES = 200;

const toneOf = (attempt) => ATTEMPT_OUTCOMES[attempt.outcome]?.tone ?? "processing";
const wordOf = (attempt) => ATTEMPT_OUTCOMES[attempt.outcome]?.word ?? "Running";

/** @param {{attempts: object[]}} props As `job_attempts` gives them. */
export function AttemptsTable({ attempts }) {
  const shown = attempts.slice(-MOST_LINES);
  return html`${shown.length < attempts.length && html`<p class="muted small num">The latest ${MOST_LINES} of ${counted(attempts.length, "attempt")}.</p>`}<div class="scroll-x" tabindex="0" role="group" aria-label="Attempts"><table class="table">
    <thead><tr><th scope="col" class="num">Attempt</th><th scope="col">Outcome</th><th scope="col">Started</th><th scope="col" class="num">Took</th><th scope="col">Worker</th><th scope="col">Error</th></tr></thead>
    <tbody>${shown.map(
      (attempt) => html`<tr key=${attempt.fence}>
        <td class="num">${attempt.attempt}</td>
        <td><span class="badge" data-tone=${toneOf(attempt)}>${wordOf(attempt)}</span></td>
        <td><${When} at=${attempt.leased_at} /></td>
        <td class="num">${attempt.ended_at ? duration(between(attempt.leased_at, attempt.ended_at)) : "running"}</td>
        <td class="mono small">${attempt.worker_id}</td>
        <td class="wrap">${attempt.error_message ?? ""}</td>
      </tr>`,
    )}</tbody>
  </table></div>`;
}
