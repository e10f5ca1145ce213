// Job types: what each takes, who serves it, how it went in the last day; and the page of one.

import { types } from "../api.js";
import { counted, duration, number, percent } from "../lib/format.js";
import { setQuery, useQuery } from "../lib/router.js";
import { isAll } from "../lib/scope.js";
import { usePolling, useRead } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { Tag } from "../parts/badge.js";
import { Empty, Failed, Loading, Stale } from "../parts/states-of-view.js";
import { When } from "../parts/when.js";

/** @import { Workspace } from "../api.js" */
/** @import { JobTypeLine } from "../lib/routes.js" */

export const title = () => "Types";

const EVERY_MS = 10_000;

/** @param {{workspace: Workspace}} props */
export default function Types({ workspace }) {
  const isInternal = useQuery().get("internal") === "1";
  const scope = isAll(workspace) ? null : workspace.id;
  const read = useRead((signal) => types.list(scope, signal, isInternal), [scope, isInternal]);
  usePolling(read, EVERY_MS);
  return html`<div class="page"><header class="page-head"><h1 tabindex="-1">Types</h1><span class="muted">${workspace.name}, last day</span><span class="spacer"></span>
      <label class="check"><input type="checkbox" checked=${isInternal} onChange=${(/** @type {{target: HTMLInputElement}} */ event) => setQuery({ internal: event.target.checked ? "1" : "" })} /> Internal types</label></header>
    ${read.isStale && html`<${Stale} error=${read.error} retry=${read.refresh} />`}
    <section class="card" aria-label="Job types">${!read.value ? (read.error ? html`<${Failed} error=${read.error} retry=${read.refresh} what="The types could not be read" />` : html`<${Loading} what="Reading types" />`) : html`<${List} list=${read.value.types} />`}</section>
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
      ? html`<${Tag} tone="completed">Served<//>`
      : html`<${Tag} tone="failed">No worker<//>`;

/** @param {{list: JobTypeLine[]}} props */
function List({ list }) {
  if (list.length === 0)
    return html`<${Empty} title="No job types">A type appears here when a worker that has a processor for it starts.<//>`;
  return html`<div class="scroll-x" tabindex="0" role="group" aria-label="Types"><table class="table"><thead><tr><th scope="col">Type</th><th scope="col">State</th><th scope="col" class="num phone-less">Workers</th><th scope="col" class="phone-less">Last seen</th><th scope="col" class="phone-less">Version</th><th scope="col" class="num phone-less">Completed</th><th scope="col" class="num phone-less">Failed</th><th scope="col" class="num">Success</th><th scope="col" class="num phone-less">Queue p95</th><th scope="col" class="num phone-less">Run p95</th><th scope="col" class="num phone-less">Schedules</th></tr></thead>
    <tbody>${list.map(
      (
        type,
      ) => html`<tr key=${type.job_type}><th scope="row" class="wrap"><a href=${`/types/${encodeURIComponent(type.job_type)}`}>${type.job_type}</a>${type.description && html`<span class="muted small one-line phone-lines">${type.description}</span>`}</th>
      <td title=${type.pause_reason ?? undefined}><${ServedTag} type=${type} /></td><td class="num phone-less">${number(type.workers)}</td><td class="phone-less"><${When} at=${type.last_seen_at} /></td><td class="small phone-less">${type.code_versions?.join(", ") || "–"}</td>
      <td class="num phone-less">${number(Number(type.day.completed ?? 0))}</td><td class="num phone-less">${number(Number(type.day.failed ?? 0))}</td><td class="num">${percent(type.day.success_rate === null || type.day.success_rate === undefined ? Number.NaN : Number(type.day.success_rate))}</td>
      <td class="num phone-less">${duration(type.day.queue?.p95_ms ?? Number.NaN)}</td><td class="num phone-less">${duration(type.day.run?.p95_ms ?? Number.NaN)}</td><td class="num phone-less">${type.schedule_count || "–"}</td></tr>`,
    )}</tbody></table></div>
    <p class="muted small num">${counted(list.length, "type")}, ${counted(list.filter((type) => !type.served).length, "type")} without a worker.</p>`;
}
