// Page that lists accounts or contacts, with a search and buttons for enrichment.

import {
  ActionButton,
  column,
  createAction,
  Empty,
  ENDED,
  Freshness,
  html,
  Icon,
  liveList,
  loadStyles,
  pageHead,
  quietButton,
  SearchBox,
  setQuery,
  StateBadge,
  Tag,
  useLivePages,
  useQuery,
  When,
} from "../../app.js";
import { costOf, enrichment, openJobs, page, SOURCES } from "./data.js";

loadStyles("/apps/enrichment/enrichment.css");

export const isLive = (job) => Boolean(job) && !ENDED.has(job.status);

/** Button that enriches a record. The tooltip of the button shows the maximum cost. */
export function EnrichButton({ kind, row, name, job, refresh, className }) {
  const run = () =>
    createAction(refresh)(`${name} was not enriched`, () => enrichment(kind, row.id));
  const isRepeated = row.enriched_at || job?.status === "completed";
  const word = isRepeated ? "Enrich again" : "Enrich";
  return html`<${ActionButton}
    className=${className ?? (isRepeated ? "small quiet" : "small")}
    run=${run}
    disabled=${isLive(job)}
    title=${`Calls Apollo, ${costOf(1)}`}
    aria-label=${`${word} ${name}`}>
    <${Icon} name="sparkles" /> ${word}
  <//>`;
}

/**
 * Shows the state of the running enrichment job, or the result and the time of the last enrichment.
 * `job` is the latest job of the record, if the page knows it.
 */
export function Enriched({ row, job }) {
  if (isLive(job)) return html`<${StateBadge} job=${job} />`;
  const ended = job?.status === "completed" ? job.finished_at : null;
  const isMissing =
    job?.result?.outcome === "no match" && !(Date.parse(row.enriched_at) > Date.parse(ended));
  if (!isMissing && !row.enriched_at) return html`<${Tag}>Not enriched<//>`;
  const isSample = row.metadata?.apollo_source === "offline";
  return html`<span class="titled">
    ${
      isMissing
        ? html`<${Tag} tone="waiting">No match<//>`
        : html`<${Tag} tone=${isSample ? "pending" : "completed"}>
            ${isSample ? SOURCES.offline : "Enriched"}
          <//>`
    } <span class="muted small"><${When} at=${ended ?? row.enriched_at} /></span>
  </span>`;
}

/** Shows the name of a record, with a second line of text below the name. */
export const Named = ({ name, href, under }) =>
  html`<span class="named">
    ${href ? html`<a href=${href}>${name}</a>` : name}
    ${under && html`<span class="under">${under}</span>`}
  </span>`;

/**
 * Page that lists accounts or contacts. `add` opens the form for a new record, `actions` are more
 * buttons, and `columns` are the columns of the table.
 */
export function RecordsPage({ kind, label, nameOf, columns, hint, add, actions, workspace }) {
  const search = useQuery().get("search") ?? "";
  const records = useLivePages(
    workspace.id,
    async (_, cursor, signal) => {
      const [found, jobs] = await Promise.all([
        page(`${kind}s`, workspace.id, { search, cursor, signal }),
        openJobs(kind, workspace.id, signal),
      ]);
      return { ...found, jobs };
    },
    { search, isLive: (pages) => pages.some(({ jobs }) => [...jobs.values()].some(isLive)) },
  );
  const rows = records.value?.flatMap((one) => one.rows) ?? [];
  const jobs = records.value?.at(-1)?.jobs ?? new Map();
  return html`<div class="page">
    ${pageHead(
      label,
      null,
      html`<${Freshness} value=${records.freshness} />
        <div class="actions">
          ${actions}
          <button type="button" class="primary" onClick=${add}>New ${kind}</button>
        </div>`,
    )}
    <div class="bar">
      <${SearchBox}
        value=${search}
        placeholder=${`Search ${kind}s`}
        onChange=${(text) => setQuery({ search: text })} />
    </div>
    ${liveList(
      {
        of: records,
        what: `${kind}s`,
        label,
        rows,
        key: (row) => row.id,
        attributes: (row) => ({ "data-record": row.id }),
        empty: search
          ? html`<${Empty} title=${`No ${kind} matches “${search}”`}>
              ${quietButton(`Show all ${kind}s`, () => setQuery({ search: "" }))}
            <//>`
          : html`<${Empty} title=${`No ${kind}s yet`}>
              <p>${hint}</p>
              <button type="button" onClick=${add}>Create the first</button>
            <//>`,
      },
      [
        ...columns,
        column(
          "Enrichment",
          "bare",
          (row) => html`<${Enriched} row=${row} job=${jobs.get(row.id)} />`,
        ),
        column(
          "Actions",
          "num",
          (row) => html`<${EnrichButton}
            kind=${kind}
            row=${row}
            name=${nameOf(row)}
            job=${jobs.get(row.id)}
            refresh=${records.refresh} />`,
        ),
      ],
    )}
  </div>`;
}
