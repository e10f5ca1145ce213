// One bulk operation: how far it is, which jobs it chose, and what became of each.

import { bulk } from "../api.js";
import { utc } from "../lib/format.js";
import { usePolling, useRead } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { Tag } from "../parts/badge.js";
import { ACTIONS } from "../parts/operate.js";
import {
  OperationActions,
  OperationProgress,
  OperationState,
  POLL_MS,
} from "../parts/operation.js";
import { jobLink } from "../parts/facts.js";
import { choice } from "../parts/field.js";
import { listed } from "../parts/live-list.js";
import { pager } from "../parts/page-head.js";
import { Empty } from "../parts/states-of-view.js";
import { column, heading } from "../parts/table.js";
import { When } from "../parts/when.js";
import { Unread } from "../parts/unread.js";

/** @import { Operation, OperationJob } from "../lib/routes.js" */

export const title = () => "Bulk operation";

/** @type {Record<OperationJob["outcome"], [tone: string, word: string]>} */
const OUTCOMES = {
  done: ["completed", "Done"],
  skipped: ["cancelled", "Skipped"],
  failed: ["failed", "Failed"],
  waiting: ["pending", "Waiting"],
};

/** @type {[value: string, words: string][]} */
const CHOICES = [
  ["", "All outcomes"],
  ...Object.entries(OUTCOMES).map(
    ([name, [, word]]) => /** @type {[string, string]} */ ([name, word]),
  ),
];

const inWords = (/** @type {string} */ name, /** @type {any} */ value) => {
  if (/_(after|before)$/.test(name)) return utc(value);
  return typeof value === "object" && !Array.isArray(value)
    ? JSON.stringify(value)
    : [value].flat().join(", ");
};

/** @param {{id: string}} props */
export default function BulkOperation({ id }) {
  const read = useRead((signal) => bulk.get(id, { signal }), [id]);
  const operation = read.value;
  usePolling(read, operation?.status === "running" ? POLL_MS : null);
  if (!operation)
    return html`<div class="page">
      ${html`<${Unread} of=${read} what="the operation" />`}
    </div>`;
  const filter = Object.entries(operation.filter)
    .filter(([name]) => name !== "ids")
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${inWords(name, value)}`);
  return html`<div class="page">
    <header class="page-head">
      <h1 tabindex="-1">${operation.name}</h1>
      <${OperationState} operation=${operation} />
      <span class="spacer"></span>
      <${OperationActions} operation=${operation} refresh=${read.refresh} />
    </header>
    <section class="card stack" aria-label="Progress">
      <${OperationProgress} operation=${operation} />
      <p class="muted">
        ${ACTIONS[operation.action].verb}, began <${When} at=${operation.created_at} />
        ${operation.finished_at && html`, ended <${When} at=${operation.finished_at} />`}
        ${
          operation.undo_of &&
          html`
            , takes back <a href=${`/bulk-operations/${operation.undo_of}`}>another</a>
          `
        }
        ${filter.length > 0 && `: ${filter.join("; ")}`}
      </p>
    </section>
    <${Results} key=${operation.id} operation=${operation} />
    <p><a href="/bulk-operations">All bulk operations</a></p>
  </div>`;
}

/** @param {{operation: Operation}} props */
function Results({ operation }) {
  const [outcome, setOutcome] = useState(/** @type {OperationJob["outcome"] | ""} */ (""));
  const [before, setBefore] = useState(/** @type {number | null} */ (null));
  const { done, skipped, failed } = operation;
  const choose = (/** @type {typeof outcome} */ chosen) => {
    setOutcome(chosen);
    setBefore(null);
  };
  const page = useRead(
    (signal) =>
      bulk.jobs(operation.id, {
        query: { ...(outcome && { outcome }), ...(before !== null && { cursor: before }) },
        signal,
      }),
    [operation.id, outcome, before, done + skipped + failed],
  );
  const next = page.value?.next ?? null;
  return html`<section class="card" aria-labelledby="h-results">
    <div class="bar">
      <h2 id="h-results">Jobs</h2>
      <span class="spacer"></span>
      ${choice("Outcome", outcome, choose, CHOICES, "field-inline", "hidden")}
    </div>
    ${listed(
      {
        of: page,
        label: "Results",
        rows: page.value?.jobs,
        key: (job) => job.job_id,
        cards: true,
        empty: html`<${Empty} title="No jobs">
          None was chosen, or none came out so.
        <//>`,
      },
      [
        heading("Job", (job) => jobLink(job.job_id)),
        column("Type", "wrap", (job) => job.job_type ?? "–"),
        column("Outcome", (job) => {
          const [tone, word] = OUTCOMES[job.outcome];
          return html`<${Tag} tone=${tone}>${word}<//>`;
        }),
        column("Reason", "wrap", (job) => (job.reason ?? "–").replaceAll("_", " ")),
        column("New job", (job) => jobLink(job.new_job_id)),
      ],
    )}
    ${pager({
      First: before !== null && (() => setBefore(null)),
      More: next !== null && (() => setBefore(next)),
    })}
  </section>`;
}
