// A list of records with its search, each with its enrichment: accounts and contacts alike.

import { useLivePages } from "../../parts/live.js";
import { navigate, setQuery, useQuery } from "../../lib/router.js";
import { html } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { ActionButton } from "../../parts/dialog.js";
import { SearchBox } from "../../parts/field.js";
import { column, liveList } from "../../parts/table.js";
import { Empty } from "../../parts/states-of-view.js";
import { act } from "../../parts/toasts.js";
import { When } from "../../parts/when.js";
import { enrichment, page } from "./data.js";

/** The button of a record, which leads to its job. */
export const enrichButton = (kind, id, name, className = "small") => {
  const run = () =>
    act(`${name} was not enriched`, async () =>
      navigate(`/jobs/${(await enrichment(kind, id)).id}`),
    );
  return html`<${ActionButton} className=${className} run=${run} aria-label=${`Enrich ${name}`}>
    Enrich
  <//>`;
};

export const Enriched = ({ row }) =>
  row.enriched_at
    ? html`<${Tag} tone="completed">
        ${row.metadata?.apollo_source === "offline" ? "Enriched, sample" : "Enriched"}
      <//> <${When} at=${row.enriched_at} />`
    : html`<${Tag} tone="pending">Not yet<//>`;

/** The page of a kind; `columns` are those of its own, `action` is in its head. */
export function RecordsPage({ kind, label, nameOf, columns, hint = "", action = null, workspace }) {
  const search = useQuery().get("search") ?? "";
  const records = useLivePages(
    workspace.id,
    (_, cursor, signal) => page(`${kind}s`, workspace.id, { search, cursor, signal }),
    { search },
  );
  return html`<div class="page">
    <header class="page-head">
      <h1 tabindex="-1">${label}</h1>
      <span class="spacer"></span>
      <${Freshness} value=${records.freshness} />
      ${action}
    </header>
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
        rows: records.value?.flatMap(({ rows }) => rows) ?? [],
        key: (row) => row.id,
        attributes: (row) => ({ "data-record": row.id }),
        empty: html`<${Empty} title=${search ? `No ${kind} matches` : `No ${kind}s yet`}>
          ${search ? "" : hint}
        <//>`,
      },
      [
        ...columns,
        column("Enrichment", (row) => html`<${Enriched} row=${row} />`),
        column("Actions", (row) => enrichButton(kind, row.id, nameOf(row))),
      ],
    )}
  </div>`;
}
