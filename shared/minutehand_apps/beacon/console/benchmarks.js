// Page of benchmarks. The page lists the jobs of a workspace, newest first, and the jobs that could
// not be queued.

import {
  ActionButton,
  column,
  createAction,
  Empty,
  Freshness,
  heading,
  html,
  liveList,
  loadStyles,
  navigate,
  notify,
  pageHead,
  pluralize,
  useLivePages,
  useState,
  When,
} from "../../app.js";
import { beacon, isOver, STATES, versionOf } from "./data.js";
import { State } from "./job-page.js";
import { SubmitDialog } from "./submit-dialog.js";

loadStyles("/apps/beacon/beacon.css");

export const title = () => "Benchmarks";

/**
 * Shows a region with its state. The state is a colour, and a word in the tooltip and for screen
 * readers.
 */
const regionOf = ({ region, status }) => {
  const { tone, word } = STATES[status];
  return html`<li key=${region} class="badge" data-tone=${tone} title=${word}>
    <span class="pulse" aria-hidden="true"></span>${region}<span class="hidden">: ${word}</span>
  </li>`;
};
const regionsOf = ({ executions }) =>
  html`<ul class="bar regions">${executions.map(regionOf)}</ul>`;
const doneOf = ({ executions }) =>
  `${executions.filter(({ status }) => status === "completed").length} of ${executions.length}`;

export default function Benchmarks({ workspace }) {
  const jobs = useLivePages(workspace.id, beacon.jobs, {
    liveOf: (pages) =>
      pages
        .flatMap((page) => page.jobs)
        .filter((one) => one.queue_job_id && !isOver(one.status))
        .map((one) => `beacon:${one.id}`),
  });
  const rows = jobs.value?.flatMap((page) => page.jobs) ?? [];
  const dead = rows.filter((job) => job.outbox_status === "dead");
  const [writing, setWriting] = useState(false);
  const retry = () =>
    createAction(jobs.refresh)("Could not retry", async () => {
      const { count } = await beacon.redrive(workspace.id);
      notify(`${pluralize(count, "message")} will be published again`);
    });
  return html`<div class="page">
    ${pageHead(
      "Benchmarks",
      null,
      html`<${Freshness} value=${jobs.freshness} />
        <button type="button" class="primary" onClick=${() => setWriting(true)}>New benchmark</button>`,
    )}
    ${
      dead.length > 0 &&
      html`<section class="notice failed" aria-labelledby="h-dead">
        <div class="bar">
          <h2 id="h-dead">Not queued</h2>
          <span class="spacer"></span>
          <${ActionButton} run=${retry}>Retry ${pluralize(dead.length, "job")}<//>
        </div>
        <ul class="stack">
          ${dead.map(
            (one) => html`<li key=${one.id}>
              <a href=${`/benchmarks/${one.id}`}><code>${one.jobspec_id}</code></a>
              <span class="problem wrap"> ${one.error}</span>
            </li>`,
          )}
        </ul>
      </section>`
    }
    ${liveList(
      {
        of: jobs,
        what: "jobs",
        label: "Jobs",
        rows,
        key: (job) => job.id,
        attributes: (job) => ({ "data-job": job.jobspec_id }),
        empty: html`<${Empty} title="No benchmarks yet">
          <p>Each region answers your questions, with a signed receipt.</p>
          <button type="button" onClick=${() => setWriting(true)}>Start with an example</button>
        <//>`,
      },
      [
        heading(
          "Benchmark",
          "wrap",
          (job) => html`
            <a href=${`/benchmarks/${job.id}`}>${job.name ?? job.jobspec_id}</a>
            <span class="under">
              Answers from ${job.min_regions} of ${pluralize(job.executions.length, "region")}
              ${" "}needed, ${versionOf(job)}
            </span>
          `,
        ),
        column("State", "state bare", (job) => html`<${State} job=${job} />`),
        column("Regions", "wrap bare", regionsOf),
        column("Answered", "nowrap", doneOf),
        column("Submitted", "bare", (job) => html`<${When} at=${job.created_at} />`),
      ],
    )}
    ${
      writing &&
      html`<${SubmitDialog}
        workspaceId=${workspace.id}
        onClose=${() => setWriting(false)}
        onSubmitted=${(job) => navigate(`/benchmarks/${job.id}`)} />`
    }
  </div>`;
}
