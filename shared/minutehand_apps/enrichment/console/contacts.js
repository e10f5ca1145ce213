// Page of contacts, who are the people of the accounts, with buttons for enrichment and a form for
// a new contact.

import {
  choice,
  column,
  DialogForm,
  field,
  heading,
  html,
  safeUrl,
  useFetch,
  useState,
} from "../../app.js";
import { add, page } from "./data.js";
import { Named, RecordsPage } from "./records.js";

export const title = () => "Contacts";

const nameOf = (row) => row.name ?? row.email ?? "unnamed contact";

/** Link to a contact's profile. If the URL is invalid, there is no link. */
const Profile = ({ url }) =>
  safeUrl(url)
    ? html`<a href=${safeUrl(url)} target="_blank" rel="noreferrer noopener">Profile</a>`
    : url;

const COLUMNS = [
  heading("Name", "wrap", (row) => html`<${Named} name=${nameOf(row)} under=${row.title} />`),
  column(
    "Email",
    "wrap bare",
    (row) => row.email && html`<a href=${`mailto:${row.email}`}>${row.email}</a>`,
  ),
  column(
    "Account",
    "wrap bare",
    (row) =>
      row.accounts && html`<a href=${`/accounts/${row.accounts.id}`}>${row.accounts.name}</a>`,
  ),
  column(
    "LinkedIn",
    (row) =>
      row.linkedin_url &&
      html`<span class="own-line"><${Profile} url=${row.linkedin_url} /></span>`,
  ),
];

export default function Contacts({ workspace }) {
  const [adding, setAdding] = useState(false);
  const [added, setAdded] = useState(0); // number of new contacts. A change reloads the list.
  return html`
    <${RecordsPage}
      key=${added}
      kind="contact"
      label="Contacts"
      nameOf=${nameOf}
      columns=${COLUMNS}
      hint="Apollo completes a person with a mail address: title and profile."
      add=${() => setAdding(true)}
      workspace=${workspace} />
    ${
      adding &&
      html`<${NewContact}
        workspaceId=${workspace.id}
        onClose=${() => setAdding(false)}
        onAdded=${() => setAdded(added + 1)} />`
    }
  `;
}

function NewContact({ workspaceId, onClose, onAdded }) {
  const [name, setName] = useState("");
  const [email, setEmail] = useState("");
  const [account, setAccount] = useState("");
  const accounts = useFetch((signal) => page("accounts", workspaceId, { signal }), [workspaceId]);
  const options = (accounts.value?.rows ?? []).map((one) => [one.id, one.name]);
  const save = async () => {
    await add("contacts", {
      workspace_id: workspaceId,
      name: name.trim(),
      email: email.trim(),
      account_id: account || null,
    });
    onAdded();
    onClose();
  };
  return html`<${DialogForm} title="New contact" action="Add" run=${save} onClose=${onClose}>
    ${field("Name", name, setName, { required: true, maxlength: 500 })}
    ${field("Email", email, setEmail, { type: "email", required: true, maxlength: 320 })}
    ${choice("Account", account, setAccount, [["", "None"], ...options])}
  <//>`;
}
