// The page of one job type: its schema, limits, schedules, workers, and how it went in the last day.

import { types } from "../api.js";
import { duration, number, percent } from "../lib/format.js";
import { usePolling, useRead } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { WorkerState } from "../parts/badge.js";
import { fact, figure, SCHEDULE_COLUMNS } from "../parts/facts.js";
import { JsonView } from "../parts/json-view.js";
import { EnqueueDialog } from "../parts/lazy.js";
import { Empty, Failed, Loading } from "../parts/states-of-view.js";
import { When } from "../parts/when.js";
import { ServedTag } from "./types.js";
import { OnOff } from "../parts/switched.js";
import { column, heading, table } from "../parts/table.js";

/** @import { Workspace } from "../api.js" */
/** @import { JobTypeDetail } from "../lib/routes.js" */

export const title = (/** @type {{name: string}} */ { name }) => name;

const EVERY_MS = 10_000;

/** @param {{name: string, workspace: Workspace}} props */
export default function TypePage({ name, workspace }) {
  const scope = workspace.id;
  const read = useRead((signal) => types.get(scope, name, signal), [scope, name]);
  const [enqueuing, setEnqueuing] = useState(false);
  usePolling(read, EVERY_MS);
  const type = read.value;
  return html`<div class="page">
    <header class="page-head">
      <div>
        <p class="crumb"><a href="/types">Types</a></p>
        <h1 tabindex="-1" class="wrap">${name} ${type && html`<${ServedTag} type=${type} />`}</h1>
      </div>
      <span class="spacer"></span>
      <a class="button" href=${`/jobs?job_type=${encodeURIComponent(name)}`}>Its jobs</a>
      ${
        type &&
        scope &&
        !type.internal &&
        html`<button type="button" class="primary" onClick=${() => setEnqueuing(true)}>
          Enqueue
        </button>`
      }
    </header>
    ${
      !type
        ? read.error
          ? html`
            <${Failed}
              error=${read.error}
              retry=${read.refresh}
              what="The type could not be read" />
            ${
              read.error.status === 404 &&
              read.error.detail &&
              html`<p>
                Did you mean <a href=${`/types/${encodeURIComponent(read.error.detail)}`}>
                  ${read.error.detail}
                </a>?
              </p>`
            }
          `
          : html`<${Loading} what="Reading the type" />`
        : html`<${Loaded} type=${type} />`
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

/** @param {{type: JobTypeDetail}} props */
function Loaded({ type }) {
  const { day, limits } = type;
  return html`
    ${type.description && html`<p>${type.description}</p>`}
    ${
      type.paused_at &&
      html`<p class="notice stale" role="status">
        Paused <${When} at=${type.paused_at} />
        ${type.pause_reason ? `: ${type.pause_reason}` : "."}
      </p>`
    }
    ${
      !type.served &&
      html`<p class="notice stale" role="status">
        No worker that runs now serves this type${
          type.last_seen_at
            ? html`
              ; the last was seen <${When} at=${type.last_seen_at} />
            `
            : ""
        }. Its jobs wait. Start a worker that has its processor, or look whether the last deploy removed it.
      </p>`
    }
    <section class="grid-cards" aria-label="Last day">
      ${figure("Completed", number(Number(day.completed ?? 0)), `${number(Number(day.enqueued ?? 0))} enqueued`)}
      ${figure("Success", percent(day.success_rate === null || day.success_rate === undefined ? Number.NaN : Number(day.success_rate)), `${number(Number(day.failed ?? 0))} failed, ${number(Number(day.retried ?? 0))} retried`)}
      ${figure("Queue time", duration(day.queue?.p50_ms ?? Number.NaN), `p95 ${duration(day.queue?.p95_ms ?? Number.NaN)}`)}
      ${figure("Run time", duration(day.run?.p50_ms ?? Number.NaN), `p95 ${duration(day.run?.p95_ms ?? Number.NaN)}`)}
    </section>
    <div class="columns">
      <div class="column main">
        <section class="card" aria-labelledby="h-schema">
          <h2 id="h-schema">Payload schema</h2>
          ${
            type.payload_schema
              ? html`<${JsonView} value=${type.payload_schema} label="Payload schema" />`
              : html`<${Empty} title="Any object">
                The type declares no schema.
              <//>`
          }
        </section>
        <section class="card" aria-labelledby="h-serving">
          <h2 id="h-serving">Workers</h2>
          ${
            type.serving.length === 0
              ? html`<${Empty} title="No worker has served it in 30 days" />`
              : table({ label: "Workers", rows: type.serving, key: (one) => one.worker_id }, [
                  heading("Worker", "mono small wrap", (one) => one.worker_id),
                  column("State", (one) => html`<${WorkerState} state=${one.state} />`),
                  column("Version", (one) => one.version ?? "–"),
                  column("Since", (one) => html`<${When} at=${one.started_at} />`),
                  column("Last seen", (one) => html`<${When} at=${one.seen_at} />`),
                  column("Queues", (one) => one.queues?.join(", ") ?? "all"),
                ])
          }
        </section>
        <section class="card" aria-labelledby="h-schedules">
          <h2 id="h-schedules">Schedules</h2>
          ${
            type.schedules.length === 0
              ? html`<${Empty} title="No schedules" />`
              : table({ label: "Schedules", rows: type.schedules, key: (one) => one.name }, [
                  heading("Name", (one) => one.name),
                  ...SCHEDULE_COLUMNS,
                  column(
                    "State",
                    (one) => html`<${OnOff} isOn=${one.enabled} problem=${one.problem} />`,
                  ),
                  column("Source", "mono small wrap", (one) => one.source ?? "by a person"),
                ])
          }
        </section>
      </div>
      <section class="column side" aria-label="Facts">
        <dl class="facts card">
          ${fact("Queue", type.queue)}
          ${fact("Schema version", type.version)}
          ${fact("Source", type.source && html`<span class="mono small">${type.source}</span>`)}
          ${fact("Timeout", duration(limits.timeout_seconds * 1000))}
          ${fact("Lease", duration(limits.lease_seconds * 1000))}
          ${fact("Attempts", limits.max_attempts)}
          ${fact("Backoff", `${duration(limits.backoff.first_seconds * 1000)}, × ${limits.backoff.factor}, at most ${duration(limits.backoff.cap_seconds * 1000)}`)}
          ${fact("At once", limits.max_concurrency ?? "no limit")}
          ${fact("Per workspace", limits.workspace_concurrency ?? "no limit")}
          ${fact("Per key", limits.key_concurrency ?? "no limit")}
          ${fact("Rate", limits.rate_limit ? `${limits.rate_limit} per ${duration(limits.rate_per_seconds * 1000)}${limits.rate_per_key ? ", per key" : ""}` : "no limit")}
          ${fact("Events", type.events)}
          ${fact("Tagged by", type.tagged_by?.length > 0 && [type.tagged_by].flat().join(", "))}
        </dl>
      </section>
    </div>
  `;
}
