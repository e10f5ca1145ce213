// Page of accounts, with a list, search, enrichment, and a form for a new account.

import { number } from "../../lib/format.js";
import { navigate } from "../../lib/router.js";
import { html, useState } from "../../lib/ui.js";
import { DialogForm } from "../../parts/dialog.js";
import { field } from "../../parts/field.js";
import { column, heading } from "../../parts/table.js";
import { add } from "./data.js";
import { Named, RecordsPage } from "./records.js";

export const title = () => "Accounts";

const place = (row) => [row.city, row.country].filter(Boolean).join(", ");

const COLUMNS = [
  heading(
    "Name",
    "wrap",
    (row) => html`<${Named} name=${row.name} href=${`/accounts/${row.id}`} under=${row.domain} />`,
  ),
  column("Industry", "bare", (row) => row.industry),
  column("Employees", "num", (row) => row.employee_count && number(row.employee_count)),
  column("Place", "wrap bare", place),
];

export default function Accounts({ workspace }) {
  const [adding, setAdding] = useState(false);
  const close = () => setAdding(false);
  return html`
    <${RecordsPage}
      kind="account"
      label="Accounts"
      nameOf=${(row) => row.name}
      columns=${COLUMNS}
      hint="Apollo completes a company with a domain: industry, size, city, revenue."
      add=${() => setAdding(true)}
      workspace=${workspace} />
    ${adding && html`<${NewAccount} workspaceId=${workspace.id} onClose=${close} />`}
  `;
}

function NewAccount({ workspaceId, onClose }) {
  const [name, setName] = useState("");
  const [domain, setDomain] = useState("");
  const save = async () => {
    const values = { workspace_id: workspaceId, name: name.trim(), domain: domain.trim() || null };
    const [account] = await add("accounts", values);
    navigate(`/accounts/${account.id}`);
  };
  return html`<${DialogForm} title="New account" action="Add" run=${save} onClose=${onClose}>
    ${field("Name", name, setName, { required: true, maxlength: 500 })}
    ${field("Domain", domain, setDomain, { maxlength: 253, placeholder: "example.com" })}
  <//>`;
}
