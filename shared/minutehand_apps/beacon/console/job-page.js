// Page of one job of the beacon app, with the state of each region, the answers by region, and the
// receipts.

import {
  ActionButton,
  column,
  createAction,
  Freshness,
  heading,
  html,
  objectHead,
  placeholderPage,
  pluralize,
  ShareButton,
  stale,
  table,
  Tag,
  useFetch,
  useTopicRefresh,
  When,
} from "../../app.js";
import { Answers } from "./answers.js";
import { beacon, isOver, STATES, versionOf } from "./data.js";
import { Receipts } from "./receipts.js";

export const title = () => "Benchmark";

const isMadeUp = ({ executions }) => executions.some(({ model }) => model === "offline-1");

/** Badge with the state of a benchmark or of one of its executions. */
export const State = ({ job, status = job.status }) =>
  isMadeUp(job) && status === "completed"
    ? html`<${Tag}>Sample<//>`
    : html`<${Tag} tone=${STATES[status].tone}>${STATES[status].word}<//>`;

export default function JobPage({ id, workspace }) {
  const found = useFetch((signal) => beacon.job(id, signal), [id]);
  const job = found.value;
  const previousId = job?.previous_id;
  const readPrevious = async (signal) => previousId && beacon.job(previousId, signal);
  const previous = useFetch(readPrevious, [previousId]);
  // A beacon job and its executions share a session, which exists once the job is in the queue.
  const topic = job?.queue_job_id ? `session:beacon:${job.id}` : `workspace:${workspace.id}`;
  const isLive = job && !isOver(job.status);
  const freshness = useTopicRefresh(found, [topic], isLive ?? true);
  const unread = placeholderPage("Benchmark", found, "benchmark");
  if (unread) return unread;
  const act = createAction(found.refresh);
  const cancel = () =>
    act("Could not cancel", () => beacon.cancel(job.id), undefined, {
      title: "Cancel this job?",
      text: "Completed executions keep their receipts.",
      action: "Cancel the job",
      danger: true,
    });
  const repeat = () =>
    act(
      "Could not add the schedule",
      () => beacon.repeatDaily(job),
      "It runs each day at 06:00 UTC. Change this in Jobs and queues, Schedules.",
    );
  const { constraints } = job.spec;
  const isSample = isMadeUp(job);
  const questions = pluralize(job.spec.questions.length, "question");
  const regions = pluralize(constraints.regions.length, "region");
  return html`<article class="page">
    ${objectHead(
      html`<a href="/benchmarks">Benchmarks</a> / ${job.jobspec_id} ${versionOf(job)}`,
      job.spec.benchmark.name,
      html`<${State} job=${job} />`,
      html`${isLive && html`<${Freshness} value=${freshness} />`}
      <${ShareButton}
        what="the answers"
        address=${job.share_id && `/api/v1/shared/${job.share_id}`}
        share=${(isShared) => beacon.share(job.id, isShared)}
        refresh=${found.refresh} />
      ${workspace.role === "manager" && html`<${ActionButton} run=${repeat}>Run daily<//>`}
      ${isLive && html`<${ActionButton} className="danger" run=${cancel}>Cancel<//>`}`,
    )}
    ${stale(found)}
    <p class="muted wrap">
      ${questions}, answers from ${constraints.min_regions} of ${regions} needed,
      ${" "}submitted <${When} at=${job.created_at} />
    </p>
    ${
      isSample &&
      html`<p class="notice">Sample: no provider is connected, so the answers are made up.</p>`
    }
    ${job.error && html`<p class="problem wrap" role="alert">${job.error}</p>`}
    <section class="card" aria-labelledby="h-executions">
      <h2 id="h-executions">Executions</h2>
      ${table(
        {
          label: "Executions",
          rows: job.executions,
          key: (one) => one.id,
          cards: true,
          attributes: (one) => ({ "data-region": one.region }),
        },
        [
          heading("Region", "wrap", (one) => html`<span class="strong">${one.region}</span>`),
          column(
            "State",
            ({ status, error }) => html`
              <${State} job=${job} status=${status} />
              ${error && html` <span class="problem wrap">${error}</span>`}
            `,
          ),
          column("Provider", "wrap", (one) =>
            one.provider ? `${one.provider} · ${one.model}` : "–",
          ),
          column("Receipt", (one) =>
            one.receipt_id
              ? html`<a href=${`/benchmarks/${id}/receipts/${one.receipt_id}`}>Signed</a>`
              : "–",
          ),
        ],
      )}
    </section>
    <${Answers} job=${job} previous=${previous.value} isSample=${isSample} />
    ${job.executions.some((one) => one.receipt_id) && html`<${Receipts} id=${job.id} />`}
  </article>`;
}
