// Page of all job types, of which types with problems come first. The page of one job type shows
// the type's workers and their jobs, its schema, limits, pause and schedules.

import { problems, types as api } from "../api.js";
import { atLeast, duration, number, percent } from "../lib/format.js";
import { success } from "../lib/series.js";
import { useFetch, useStore } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { Tag } from "../parts/badge.js";
import { JsonView } from "../parts/copy.js";
import { Holders } from "../parts/holders.js";
import { EnqueueDialog } from "../parts/enqueue.js";
import { useRefresh } from "../parts/live.js";
import { PauseButton } from "../parts/pause.js";
import { ResourceView } from "../parts/resource.js";
import { Empty, lateNote, Placeholder } from "../parts/states-of-view.js";
import { breakable, column, fact, figure, heading, table, typeLink } from "../parts/table.js";
import { When } from "../parts/when.js";

export const title = ({ name }) => name ?? "Types";

const MAX_COUNTED = 1000;
const countAlive = ({ serving }) => serving.filter(({ state }) => state === "alive").length;

/**
 * Return the rank of a job type in the list. The list begins with types that are refused, followed
 * by types without a worker, paused types, types with queued jobs, types with failures, and all
 * other types.
 */
const rankOf = ({ refusal, served, paused_at: paused, queue_paused_at: held, day, waiting }) =>
  [
    refusal,
    !served && (waiting > 0 || day.enqueued > 0),
    paused || held,
    waiting > 0,
    day.failed > 0,
    true,
  ].findIndex(Boolean);

const readTypes = async (workspaceId, signal) =>
  (await api.list(workspaceId, signal)).sort(
    (a, b) => rankOf(a) - rankOf(b) || b.waiting - a.waiting,
  );

export default function Types({ name, workspace }) {
  if (name) return html`<${TypePage} name=${name} workspace=${workspace} />`;
  return html`<${ResourceView}
    name="Types"
    of="last day"
    read=${(signal) => readTypes(workspace.id, signal)}
    inputs=${[workspace.id]}
    rowKey=${(type) => type.job_type}
    columns=${[
      heading(
        "Type",
        "wrap",
        (type) => html`
          ${typeLink(type.job_type)}
          <span class="under phone-less">${type.description}</span>
        `,
      ),
      column("State", (type) => html`<${TypeWorkers} type=${type} />`),
      column("Queued", "num", (type) => listOf(type, "queued", type.waiting)),
      column("Running", "num phone-less", (type) => listOf(type, "running", type.running)),
      column("Workers", "num phone-less", (type) => quantity(countAlive(type))),
      column("Completed", "num phone-less", (type) => quantity(type.day.completed ?? 0)),
      column("Failed", "num", failedOf),
      column("Success", "num phone-less", (type) => percent(success(type.day))),
      column("Queue p95", "num phone-less", (type) => estimate(type.day.queue?.p95_ms)),
      column("Run p95", "num phone-less", (type) => estimate(type.day.run?.p95_ms)),
    ]}
    empty=${html`<${Empty} title="No job types">
      <p>A type appears here when a worker with its processor starts:</p>
      <p><code>@registry.processor("invoices.send", payload=Invoice)</code></p>
    <//>`}
    before=${([type]) => lateNote(type?.late)}
    after=${(types) => html`<${Workers} types=${types} />`} />`;
}

/** Format a count. A count of zero is grey, so that other counts are easy to see. */
const quantity = (count) => (count > 0 ? number(count) : html`<span class="none">0</span>`);

/** Format a percentile, which the statistics know to 12 percent. */
const estimate = (ms) => `${Number.isFinite(ms) ? "≈ " : ""}${duration(ms)}`;

/** Figure with a median, and with the 95th percentile if it differs. */
const timeFigure = (name, { p50_ms: median, p95_ms: p95 } = {}) =>
  figure(name, estimate(median), p95 > median ? `p95 ${estimate(p95)}` : "median");

/**
 * Link to the jobs of a type in a state. The text of the link is the number of these jobs. Failed
 * jobs come from the statistics, which count all jobs of the last day.
 */
const listOf = ({ job_type: name }, state, count) =>
  count > 0
    ? html`<a
      class=${state === "failed" ? "problem" : null}
      href=${`/jobs?state=${state}&job_type=${encodeURIComponent(name)}`}>
      ${atLeast(count, state !== "failed" && count >= MAX_COUNTED)}
    </a>`
    : quantity(0);

const failedOf = (type) => listOf(type, "failed", type.day.failed);

/**
 * Tag that shows whether workers serve a job type. The tag says that the job type is refused,
 * paused, without a worker, active or idle.
 */
function TypeWorkers({ type }) {
  const [, tone, words] = WORKER_STATES.find(([matches]) => matches(type));
  return html`<${Tag} tone=${tone}>${words}<//>`;
}

/** Labels for the state of a job type. The first label whose condition is true is shown. */
const WORKER_STATES = [
  [(type) => type.refusal, "failed", "Refused"],
  [(type) => type.paused_at, "waiting", "Paused"],
  [(type) => type.queue_paused_at, "waiting", "Queue paused"],
  [(type) => !type.served, "failed", "No worker"],
  [(type) => countAlive(type) === 0, "waiting", "No worker now"],
  [({ day, running }) => day.enqueued > 0 || running > 0, "completed", "Active"],
  [() => true, "pending", "Idle"],
];

function TypePage({ name, workspace }) {
  const read = useFetch((signal) => api.get(workspace.id, name, signal), [workspace.id, name]);
  const [enqueuing, setEnqueuing] = useState(false);
  useRefresh(read);
  const type = read.value;
  return html`<div class="page">
    <header class="page-head">
      <div>
        <p class="crumb"><a href="/types">Types</a></p>
        <h1 tabindex="-1" class="wrap">${name} ${type && html`<${TypeWorkers} type=${type} />`}</h1>
      </div>
      <span class="spacer"></span>
      <a class="button" href=${`/jobs?job_type=${encodeURIComponent(name)}`}>Jobs of this type</a>
      ${
        type &&
        html`<${PauseButton}
          workspace=${workspace}
          type=${name}
          isPaused=${Boolean(type.paused_at)}
          refresh=${read.refresh} />`
      }
      ${
        type &&
        !type.internal &&
        html`<button type="button" class="primary" onClick=${() => setEnqueuing(true)}>
          Enqueue
        </button>`
      }
    </header>
    ${
      type
        ? html`<${TypeDetails} type=${type} />`
        : html`<${Placeholder} of=${read} what="the type" />`
    }
    ${
      enqueuing &&
      html`<${EnqueueDialog}
        workspaceId=${workspace.id}
        type=${name}
        onClose=${() => setEnqueuing(false)} />`
    }
  </div>`;
}

/**
 * Card with the workers that serve at least one of the types, as the command `minutehand workers`
 * lists them.
 */
function Workers({ types }) {
  const workers = new Map();
  for (const { job_type: name, serving } of types)
    for (const worker of serving) {
      const { names = [] } = workers.get(worker.worker_id) ?? {};
      workers.set(worker.worker_id, { ...worker, names: [...names, name] });
    }
  const columns = [
    heading("Worker", "mono small wrap", (worker) => worker.worker_id),
    column("Last sign", lastSign),
    column("Version", "mono small", (worker) => worker.version ?? "–"),
    column("Queues", "wrap", ({ queues }) => queues?.join(", ") ?? "all"),
    column("Types", "wrap small", ({ names }) => names.join(", ")),
  ];
  const options = { label: "Workers", rows: [...workers.values()], cards: true };
  return html`<section class="card" aria-labelledby="h-serving">
    <h2 id="h-serving">Workers</h2>
    ${
      workers.size === 0
        ? html`<${Empty} title="No worker" />`
        : table({ ...options, key: (worker) => worker.worker_id }, columns)
    }
  </section>`;
}

/**
 * Show how a worker's process or latest run ended, otherwise when the worker was last seen. A
 * worker whose key expired cannot report.
 */
const lastSign = ({
  state,
  ended_at: end,
  process_end: how,
  seen_at: seen,
  key_expired_at: key,
}) =>
  end && state !== "alive" && !key
    ? html`last run ended <${When} at=${end} />${how}`
    : html`<span class=${state === "alive" ? null : "problem"}>
        seen <${When} at=${seen} />${key && html`, its key expired <${When} at=${key} />`}
      </span>`;

function TypeDetails({ type }) {
  const { day } = type;
  const { attention } = useStore(problems);
  const seconds = (value) => duration(value * 1000);
  const paused = type.pause_reason ?? html`<${When} at=${type.paused_at} />`;
  const [first, cap] = [seconds(type.backoff_first_seconds), seconds(type.backoff_cap_seconds)];
  const period = `${seconds(type.rate_per_seconds)}${type.rate_per_key ? ", per key" : ""}`;
  return html`
    ${lateNote(type.late)} ${type.description && html`<p>${type.description}</p>`}
    <${Holders} holders=${type.holders} attention=${attention} />
    <section class="grid-cards" aria-label="Last day">
      ${figure("Queued", listOf(type, "queued", type.waiting), "now")}
      ${figure("Running", listOf(type, "running", type.running), "now")}
      ${figure("Completed", number(day.completed ?? 0), `of ${number(day.enqueued ?? 0)} in the last day`)}
      ${figure("Failed", failedOf(type), `success ${percent(success(day))}`, day.failed > 0)}
      ${timeFigure("Queue time", day.queue)}
      ${timeFigure("Duration", day.run)}
    </section>
    <div class="columns">
      <div class="column main">
        <${Workers} types=${[type]} />
        <section class="card" aria-labelledby="h-schema">
          <h2 id="h-schema">Payload schema</h2>
          ${
            type.payload_schema
              ? html`<${JsonView} value=${type.payload_schema} label="Payload schema" />`
              : html`<${Empty} title="Any object" />`
          }
        </section>
      </div>
      <section class="column side" aria-label="Facts">
        <dl class="facts card">
          ${fact("Refused", type.refusal)}
          ${fact("Paused", type.paused_at && paused)}
          ${fact("Queue", type.queue)}
          ${fact("Schema version", type.schema_version)}
          ${fact("Schedules", type.schedules.length > 0 && html`<a href="/schedules">${type.schedules.length}</a>`)}
          ${fact("Source", type.source && html`<span class="mono small whole">${breakable(type.source)}</span>`)}
          ${type.published && fact("Timeout", seconds(type.timeout_seconds))}
          ${type.published && fact("Lease", seconds(type.lease_seconds))}
          ${fact("Attempts", type.max_attempts)}
          ${type.published && fact("Backoff", `${first}, × ${type.backoff_factor}, at most ${cap}`)}
          ${fact("Concurrency limit", type.max_concurrency ?? "no limit")}
          ${fact("Per workspace", type.workspace_concurrency)}
          ${fact("Per key", type.key_concurrency)}
          ${fact("Rate", type.rate_limit && `${type.rate_limit} per ${period}`)}
          ${fact("Events", type.is_minimal ? "minimal" : "full")}
        </dl>
      </section>
    </div>
  `;
}
