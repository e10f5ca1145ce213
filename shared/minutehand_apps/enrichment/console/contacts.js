// Contacts: the people of the accounts, each with its own enrichment.

import { safeUrl } from "../../lib/format.js";
import { useLivePages } from "../../lib/live.js";
import { setQuery, useQuery } from "../../lib/router.js";
import { html } from "../../lib/ui.js";
import { Freshness } from "../../parts/badge.js";
import { SearchBox } from "../../parts/field.js";
import { column, heading, liveList } from "../../parts/table.js";
import { Empty } from "../../parts/states-of-view.js";
import { enrichButton, Enriched } from "./accounts.js";
import { page } from "./data.js";

export const title = () => "Contacts";

const nameOf = (row) => row.name ?? row.email ?? "unnamed contact";

/** A profile's address as a link, if it is one at all. */
const Profile = ({ url }) =>
  safeUrl(url)
    ? html`<a href=${safeUrl(url)} target="_blank" rel="noreferrer noopener">Profile</a>`
    : (url ?? "–");

export default function Contacts({ workspace }) {
  const search = useQuery().get("search") ?? "";
  return html`<div class="page">
    <header class="page-head">
      <h1 tabindex="-1">Contacts</h1>
      <span class="spacer"></span>
    </header>
    <div class="bar">
      <${SearchBox}
        value=${search}
        placeholder="Search contacts"
        onChange=${(text) => setQuery({ search: text })} />
    </div>
    <${Rows} key=${search} workspace=${workspace} search=${search} />
  </div>`;
}

/** What a search finds; another search is another list. */
function Rows({ workspace, search }) {
  const contacts = useLivePages(workspace.id, (_, cursor, signal) =>
    page("contacts", workspace.id, { search, cursor, signal }),
  );
  return html`
    <${Freshness} value=${contacts.freshness} />
    ${liveList(
      {
        of: contacts,
        what: "contacts",
        label: "Contacts",
        rows: contacts.value?.flatMap(({ rows }) => rows) ?? [],
        key: (row) => row.id,
        cards: true,
        attributes: (row) => ({ "data-record": row.id }),
        empty: html`<${Empty} title=${search ? "No contact matches" : "No contacts yet"} />`,
      },
      [
        heading("Name", "wrap", nameOf),
        column("Email", "wrap", (row) => row.email ?? "–"),
        column("Title", "wrap", (row) => row.title ?? "–"),
        column("Account", "wrap", (row) =>
          row.accounts
            ? html`<a href=${`/accounts/${row.accounts.id}`}>${row.accounts.name}</a>`
            : "–",
        ),
        column("LinkedIn", (row) => html`<${Profile} url=${row.linkedin_url} />`),
        column("Enrichment", (row) => html`<${Enriched} row=${row} />`),
        column("Actions", (row) => enrichButton("contact", row.id, nameOf(row))),
      ],
    )}
  `;
}
