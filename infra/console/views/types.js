// Job types: what each takes, who serves it, how it went in the last day; and the page of one.

import { types } from "../api.js";
import { counted, duration, number, percent } from "../lib/format.js";
import { useQuery } from "../lib/router.js";
import { usePolling, useRead } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { Tag } from "../parts/badge.js";
import { Empty, Stale } from "../parts/states-of-view.js";
import { When } from "../parts/when.js";
import { column, heading, table } from "../parts/table.js";
import { Unread } from "../parts/unread.js";
import { internalSwitch, pageHead } from "../parts/page-head.js";

/** @import { Workspace } from "../api.js" */
/** @import { JobTypeLine } from "../lib/routes.js" */

export const title = () => "Types";

const EVERY_MS = 10_000;

/** @param {{workspace: Workspace}} props */
export default function Types({ workspace }) {
  const isInternal = useQuery().get("internal") === "1";
  const scope = workspace.id;
  const read = useRead((signal) => types.list(scope, signal, isInternal), [scope, isInternal]);
  usePolling(read, EVERY_MS);
  return html`<div class="page">
    ${pageHead("Types", `${workspace.name}, last day`, internalSwitch(isInternal))}
    ${read.isStale && html`<${Stale} error=${read.error} retry=${read.refresh} />`}
    <section class="card" aria-label="Job types">
      ${
        !read.value
          ? html`<${Unread} of=${read} what="the types" />`
          : html`<${List} list=${read.value.types} />`
      }
    </section>
  </div>`;
}

/**
 * Whether a type runs: paused, served by someone, or by no one.
 *
 * @param {{type: JobTypeLine}} props
 */
export const ServedTag = ({ type }) =>
  type.paused_at
    ? html`<${Tag} tone="waiting">Paused<//>`
    : type.served
      ? type.workers === 0
        ? html`<${Tag} tone="waiting">No worker now<//>`
        : html`<${Tag} tone="completed">Served<//>`
      : html`<${Tag} tone="failed">No worker<//>`;

/** @param {{list: JobTypeLine[]}} props */
function List({ list }) {
  if (list.length === 0)
    return html`<${Empty} title="No job types">
      A type appears here when a worker that has a processor for it starts.
    <//>`;
  return html`
    ${table({ label: "Types", rows: list, key: (type) => type.job_type }, [
      heading(
        "Type",
        "wrap",
        (type) => html`
          <a href=${`/types/${encodeURIComponent(type.job_type)}`}>${type.job_type}</a>
          ${
            type.description &&
            html`<span class="muted small one-line phone-lines">
              ${type.description}
            </span>`
          }
        `,
      ),
      column("State", (type) => html`<${ServedTag} type=${type} />`),
      column("Workers", "num phone-less", (type) => number(type.workers)),
      column("Last seen", "phone-less", (type) => html`<${When} at=${type.last_seen_at} />`),
      column("Version", "small phone-less", (type) => type.code_versions?.join(", ") || "–"),
      column("Completed", "num phone-less", (type) => number(Number(type.day.completed ?? 0))),
      column("Failed", "num phone-less", (type) => number(Number(type.day.failed ?? 0))),
      column("Success", "num", (type) =>
        percent(
          type.day.success_rate === null || type.day.success_rate === undefined
            ? Number.NaN
            : Number(type.day.success_rate),
        ),
      ),
      column("Queue p95", "num phone-less", (type) =>
        duration(type.day.queue?.p95_ms ?? Number.NaN),
      ),
      column("Run p95", "num phone-less", (type) => duration(type.day.run?.p95_ms ?? Number.NaN)),
      column("Schedules", "num phone-less", (type) => type.schedule_count || "–"),
    ])}
    <p class="muted small num">
      ${counted(list.length, "type")}, ${counted(list.filter((type) => !type.served || type.workers === 0).length, "type")} without a worker.
    </p>
  `;
}
