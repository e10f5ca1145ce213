// Contacts: the people of the accounts, each with its own enrichment.

import { safeUrl } from "../../lib/format.js";
import { html } from "../../lib/ui.js";
import { column, heading } from "../../parts/table.js";
import { RecordsPage } from "./records.js";

export const title = () => "Contacts";

const nameOf = (row) => row.name ?? row.email ?? "unnamed contact";

/** A profile's address as a link, if it is one at all. */
const Profile = ({ url }) =>
  safeUrl(url)
    ? html`<a href=${safeUrl(url)} target="_blank" rel="noreferrer noopener">Profile</a>`
    : (url ?? "–");

const COLUMNS = [
  heading("Name", "wrap", nameOf),
  column("Email", "wrap", (row) => row.email ?? "–"),
  column("Title", "wrap", (row) => row.title ?? "–"),
  column("Account", "wrap", (row) =>
    row.accounts ? html`<a href=${`/accounts/${row.accounts.id}`}>${row.accounts.name}</a>` : "–",
  ),
  column("LinkedIn", (row) => html`<${Profile} url=${row.linkedin_url} />`),
];

export default ({ workspace }) =>
  html`<${RecordsPage}
    kind="contact"
    label="Contacts"
    nameOf=${nameOf}
    columns=${COLUMNS}
    workspace=${workspace} />`;
