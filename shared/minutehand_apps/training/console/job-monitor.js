// Columns of a table of the jobs of trainings, with the result, state and error of each job.

import {
  ActionButton,
  column,
  createAction,
  duration,
  Elapsed,
  heading,
  html,
  jobs as api,
  pluralize,
  Sentence,
  serverNow,
  StateBadge,
  When,
} from "../../app.js";
import { Bar } from "./bar.js";
import { isLiveJob, MAKES } from "./data.js";

const link = (job) => html`<a href=${`/jobs/${job.id}`}>${MAKES[job.job_type]}</a>`;

const TRAINING = heading(
  "Training",
  "wrap",
  (job) => html`<a href=${`/trainings/${job.training_id}`}>${job.title}</a>`,
);

/** Shows the state of a job. A failed job that will run again has the state retrying. */
function JobState({ job }) {
  const cancelling = job.status === "cancelling";
  const status = cancelling ? "processing" : job.status;
  const known = { ...job, status, attempts: job.error_data ? 1 : 0 };
  return html`<${StateBadge} job=${known} cancelling=${cancelling} />`;
}

const STATE = column("State", "state bare", (job) => html`<${JobState} job=${job} />`);
const RUNS = ["processing", "cancelling"];
const FAILS = ["failed", "pending"];

/** Column with the progress message of a job, or with the reason why the job does not run. */
const SAYS = column("Message", "wrap bare", (job) => {
  const { status, next_retry_at: next, retry_count: retries } = job;
  const why = FAILS.includes(status) && job.error_data?.message;
  if (why)
    return html`<span class=${status === "failed" ? "problem" : undefined}>${why}</span>
      <span class="under">
        ${status === "failed" && retries > 0 && `after ${pluralize(retries + 1, "attempt")}`}
        ${status === "pending" && Date.parse(next) > serverNow() && html`next try <${When} at=${next} />`}
      </span>`;
  if (status === "pending")
    return job.progress_message && html`<span><${Sentence} text=${job.progress_message} /></span>`;
  return (
    RUNS.includes(status) &&
    html`${job.progress_message}
      <${Bar}
        label=${`${job.title}: ${MAKES[job.job_type]}`}
        done=${job.progress_percentage}
        status="processing" />`
  );
});

const DURATION = column("Duration", "num", ({ status, started_at: from, completed_at: to }) =>
  RUNS.includes(status)
    ? html`<${Elapsed} from=${from} />`
    : from && to && duration(Date.parse(to) - Date.parse(from)),
);

/**
 * Return the columns of the table of jobs. `refresh` is called after a person has cancelled or
 * retried a job.
 */
export function columnsOf(refresh, isOfOne = false) {
  const act = createAction(refresh);
  const button = (job, word, run) =>
    html`<${ActionButton}
      className="quiet"
      disabled=${job.status === "cancelling"}
      run=${() => act(`Could not ${word.toLowerCase()}`, () => run(job.id))}>
      ${word}<span class="hidden"> ${MAKES[job.job_type]} of ${job.title}</span>
    <//>`;
  return [
    ...(isOfOne ? [heading("Job", link)] : [TRAINING, column("Job", "bare", link)]),
    STATE,
    SAYS,
    DURATION,
    column("Created", "bare", (job) => html`<${When} at=${job.created_at} />`),
    column("Actions", "bare", (job) =>
      isLiveJob(job)
        ? button(job, "Cancel", api.cancel)
        : job.status !== "completed" && button(job, "Retry", api.retry),
    ),
  ];
}

/** Attributes of a table row, which tests and styles use. */
export const attributesOf = (job) => ({ "data-job": job.job_type, "data-state": job.status });
