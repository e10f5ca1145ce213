// Accounts: a long list with search, selection and bulk enrichment, and the way to the CSV import.

import { counted, number, safeUrl } from "../../lib/format.js";
import { navigate, setQuery, useQuery } from "../../lib/router.js";
import { html, useState } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { ActionButton, confirm } from "../../parts/dialog.js";
import { SearchBox } from "../../parts/job-monitor.js";
import { Empty } from "../../parts/states-of-view.js";
import { notify, notifyFailure } from "../../parts/toasts.js";
import { When } from "../../parts/when.js";
import { enrichment } from "./data.js";
import { ImportDialog } from "./import-dialog.js";
import { RecordTable } from "./record-table.js";
import { useRecords } from "./records.js";

/** @import { Workspace } from "../../api.js" */
/** @import { Account } from "./data.js" */
/** @import { Column } from "./record-table.js" */
/** @import { CreatedImport, EnrichSelection } from "./routes.js" */

export const title = () => "Accounts";

const place = (/** @type {Account} */ row) =>
  [row.city, row.state, row.country].filter(Boolean).join(", ");

/** @param {{row: {enriched_at: string | null}}} props An account or a contact. */
export const Enriched = ({ row }) =>
  row.enriched_at
    ? html`<${Tag} tone="completed">Enriched<//> <${When} at=${row.enriched_at} />`
    : html`<${Tag} tone="pending">Not yet<//>`;

/** @type {Column<Account>[]} */
const COLUMNS = [
  {
    head: "Name",
    width: "26%",
    cell: (row) => html`<a class="row-link strong" href=${`/accounts/${row.id}`}>${row.name}</a>`,
  },
  {
    head: "Domain",
    wide: true,
    cell: (row) => (safeUrl(`https://${row.domain}`) && row.domain ? row.domain : "–"),
  },
  { head: "Industry", wide: true, cell: (row) => row.industry ?? "–" },
  {
    head: "Employees",
    num: true,
    wide: true,
    width: "7rem",
    cell: (row) => number(row.employee_count),
  },
  { head: "Place", wide: true, cell: (row) => place(row) || "–" },
  { head: "Enrichment", width: "12rem", cell: (row) => html`<${Enriched} row=${row} />` },
];

/** @param {{workspace: Workspace}} props */
export default function Accounts({ workspace }) {
  const query = useQuery();
  const filter = {
    search: query.get("search") || undefined,
    enriched: query.get("enriched") || undefined,
  };
  const records = useRecords("accounts", workspace.id, filter);
  const [chosen, setChosen] = useState(/** @type {Set<string>} */ (new Set()));
  const [importing, setImporting] = useState(false);
  /**
   * @param {Omit<EnrichSelection, "workspace_id">} selection
   * @param {number} count How many accounts these are.
   */
  const enrichAll = async (selection, count) => {
    if (
      count > 1 &&
      !(await confirm({
        title: `Enrich ${counted(count, "account")}?`,
        text: "One job per account; accounts whose job is under way get no second one. Each answered lookup costs Apollo credits.",
        action: `Enrich ${counted(count, "account")}`,
      }))
    )
      return;
    try {
      const made = await enrichment.selection(workspace.id, selection);
      notify(
        `${counted(made.created, "job")} enqueued${made.deduplicated ? `, ${number(made.deduplicated)} under way already` : ""}`,
        { href: "/jobs?job_type=enrich_account", label: "See the jobs" },
      );
      setChosen(new Set());
    } catch (error) {
      notifyFailure("Could not enrich", error);
    }
  };
  const ids = [...chosen];
  return html`<div class="page fill">
    <header class="page-head">
      <h1 tabindex="-1">Accounts</h1>
      <span class="spacer"></span>
      <${Freshness} value=${records.freshness} />
      <button type="button" onClick=${() => setImporting(true)}>Import CSV</button>
    </header>
    <div class="bar">
      <${SearchBox}
        value=${filter.search ?? ""}
        placeholder="Search accounts"
        onChange=${(/** @type {string} */ search) => setQuery({ search })} />
      <label class="field-inline">
        <span>Enriched</span>
        <select
          value=${filter.enriched ?? ""}
          onChange=${(/** @type {Event & {target: HTMLSelectElement}} */ event) => setQuery({ enriched: event.target.value })}>
          <option value="">all</option>
          <option value="yes">yes</option>
          <option value="no">not yet</option>
        </select>
      </label>
      <span class="spacer"></span>
      ${
        ids.length > 0 &&
        html`
          <span class="num">${counted(ids.length, "account")} selected</span>
          <${ActionButton}
            className="primary"
            run=${() => enrichAll({ account_ids: ids.slice(0, 1000) }, Math.min(1000, ids.length))}>
            Enrich ${number(Math.min(1000, ids.length))}
          <//>
          <button type="button" class="quiet" onClick=${() => setChosen(new Set())}>Clear</button>
        `
      }
    </div>
    <${RecordTable}
      label="Accounts"
      records=${records}
      columns=${COLUMNS}
      chosen=${chosen}
      setChosen=${setChosen}
      nameOf=${(/** @type {Account} */ row) => row.name}
      empty=${html`<${Empty}
        title=${filter.search || filter.enriched ? "No account matches" : "No accounts yet"}>
        ${filter.search || filter.enriched ? "" : "Import a CSV file with names and domains to begin."}
      <//>`} />
    ${
      importing &&
      html`<${ImportDialog}
        workspaceId=${workspace.id}
        onClose=${() => setImporting(false)}
        onStarted=${(/** @type {CreatedImport} */ made) => navigate(`/accounts/import/${made.import.id}`)} />`
    }
  </div>`;
}
