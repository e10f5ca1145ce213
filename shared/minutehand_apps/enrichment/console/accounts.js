// Page of accounts, with a list, a search, buttons for enrichment, and a form for a new account.

import {
  act,
  ActionButton,
  column,
  createAction,
  DialogForm,
  download,
  field,
  heading,
  html,
  navigate,
  number,
  pluralize,
  readCsv,
  useState,
  writeCsv,
} from "../../app.js";
import { add, allAccounts, importAccounts } from "./data.js";
import { Named, RecordsPage } from "./records.js";

export const title = () => "Accounts";

const place = (row) =>
  html`<span class="own-line">${[row.city, row.country].filter(Boolean).join(", ") || "–"}</span>`;

const COLUMNS = [
  heading(
    "Name",
    "wrap",
    (row) => html`<${Named} name=${row.name} href=${`/accounts/${row.id}`} under=${row.domain} />`,
  ),
  column("Industry", "wrap", (row) => row.industry ?? "–"),
  column("Employees", "num", (row) => number(row.employee_count)),
  column("Place", "wrap", place),
];

export default function Accounts({ workspace }) {
  const [adding, setAdding] = useState(false);
  const [imported, setImported] = useState(0); // number of imports. A change reloads the list.
  const close = () => setAdding(false);
  const importFile = ({ target }) => {
    const [file] = target.files;
    target.value = ""; // so that the person can choose the corrected file again
    createAction(() => setImported(imported + 1))(
      "Nothing was imported",
      async () => importAccounts(await readCsv(file), workspace.id),
      ({ added, skipped }) =>
        `${pluralize(added, "account")} imported` +
        (skipped ? `. ${number(skipped)} skipped, because an account has the same domain` : ""),
    );
  };
  const exportAll = () =>
    act("Could not export", async () =>
      download("accounts.csv", await writeCsv(await allAccounts(workspace.id)), "text/csv"),
    );
  return html`
    <${RecordsPage}
      key=${imported}
      actions=${html`
        <label class="button">
          Import CSV
          <input type="file" class="hidden" accept=".csv,text/csv" onChange=${importFile} />
        </label>
        <${ActionButton} run=${exportAll}>Export CSV<//>
      `}
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
