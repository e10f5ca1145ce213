// Contacts: the people of the accounts, each with its own enrichment.

import { safeUrl } from "../../lib/format.js";
import { navigate, setQuery, useQuery } from "../../lib/router.js";
import { html } from "../../lib/ui.js";
import { Freshness } from "../../parts/badge.js";
import { ActionButton } from "../../parts/dialog.js";
import { SearchBox } from "../../parts/job-monitor.js";
import { Empty } from "../../parts/states-of-view.js";
import { notifyFailure } from "../../parts/toasts.js";
import { Enriched } from "./accounts.js";
import { enrichment } from "./data.js";
import { RecordTable } from "./record-table.js";
import { useRecords } from "./records.js";

/** @import { Workspace } from "../../api.js" */
/** @import { ListedContact } from "./data.js" */
/** @import { Column } from "./record-table.js" */

export const title = () => "Contacts";

async function enrich(/** @type {ListedContact} */ row) {
  try {
    navigate(`/jobs/${(await enrichment.contact(row.id)).id}`);
  } catch (error) {
    notifyFailure(`${row.name ?? "The contact"} was not enriched`, error);
  }
}

const nameOf = (/** @type {ListedContact} */ row) => row.name ?? row.email ?? "unnamed contact";

/**
 * A profile's address as a link, if it is one at all.
 *
 * @param {{url: string | null}} props
 */
const Profile = ({ url }) =>
  safeUrl(url)
    ? html`<a href=${safeUrl(url)} target="_blank" rel="noreferrer noopener">Profile</a>`
    : (url ?? "–");

/** @type {Column<ListedContact>[]} */
const COLUMNS = [
  { head: "Name", cell: (row) => html`<span class="strong">${nameOf(row)}</span>` },
  { head: "Email", wide: true, cell: (row) => row.email ?? "–" },
  { head: "Title", wide: true, cell: (row) => row.title ?? "–" },
  {
    head: "Account",
    wide: true,
    cell: (row) =>
      row.accounts ? html`<a href=${`/accounts/${row.accounts.id}`}>${row.accounts.name}</a>` : "–",
  },
  {
    head: "LinkedIn",
    wide: true,
    width: "7rem",
    cell: (row) => html`<${Profile} url=${row.linkedin_url} />`,
  },
  {
    head: "Enrichment",
    width: "12rem",
    wide: true,
    cell: (row) => html`<${Enriched} row=${row} />`,
  },
  {
    head: html`<span class="hidden">Actions</span>`,
    width: "6rem",
    cell: (row) =>
      html`<${ActionButton}
        className="small"
        run=${() => enrich(row)}
        aria-label=${`Enrich ${nameOf(row)}`}>
        Enrich
      <//>`,
  },
];

/** @param {{workspace: Workspace}} props */
export default function Contacts({ workspace }) {
  const query = useQuery();
  const filter = { search: query.get("search") || undefined };
  const records = useRecords("contacts", workspace.id, filter);
  return html`<div class="page fill">
    <header class="page-head">
      <h1 tabindex="-1">Contacts</h1>
      <span class="spacer"></span>
      <${Freshness} value=${records.freshness} />
    </header>
    <div class="bar">
      <${SearchBox}
        value=${filter.search ?? ""}
        placeholder="Search contacts"
        onChange=${(/** @type {string} */ search) => setQuery({ search })} />
    </div>
    <${RecordTable}
      label="Contacts"
      records=${records}
      columns=${COLUMNS}
      nameOf=${nameOf}
      empty=${html`<${Empty} title=${filter.search ? "No contact matches" : "No contacts yet"} />`} />
  </div>`;
}
