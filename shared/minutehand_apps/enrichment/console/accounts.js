// Accounts: a list with search, each with its enrichment, and the form of a new one.

import { number } from "../../lib/format.js";
import { useLivePages } from "../../lib/live.js";
import { navigate, setQuery, useQuery } from "../../lib/router.js";
import { html, useState } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { ActionButton, DialogForm } from "../../parts/dialog.js";
import { field, SearchBox } from "../../parts/field.js";
import { column, heading, liveList } from "../../parts/table.js";
import { Empty } from "../../parts/states-of-view.js";
import { notifyFailure } from "../../parts/toasts.js";
import { When } from "../../parts/when.js";
import { add, enrichment, page } from "./data.js";

export const title = () => "Accounts";

const place = (row) => [row.city, row.state, row.country].filter(Boolean).join(", ");

export const Enriched = ({ row }) =>
  row.enriched_at
    ? html`<${Tag} tone="completed">Enriched<//> <${When} at=${row.enriched_at} />`
    : html`<${Tag} tone="pending">Not yet<//>`;

/** The button of a record, which leads to its job. */
export const enrichButton = (kind, id, name, className = "small") => {
  const run = async () => {
    try {
      navigate(`/jobs/${(await enrichment(kind, id)).id}`);
    } catch (error) {
      notifyFailure(`${name} was not enriched`, error);
    }
  };
  return html`<${ActionButton} className=${className} run=${run} aria-label=${`Enrich ${name}`}>
    Enrich
  <//>`;
};

export default function Accounts({ workspace }) {
  const search = useQuery().get("search") ?? "";
  const [adding, setAdding] = useState(false);
  return html`<div class="page">
    <header class="page-head">
      <h1 tabindex="-1">Accounts</h1>
      <span class="spacer"></span>
      <button type="button" class="primary" onClick=${() => setAdding(true)}>New account</button>
    </header>
    <div class="bar">
      <${SearchBox}
        value=${search}
        placeholder="Search accounts"
        onChange=${(text) => setQuery({ search: text })} />
    </div>
    <${Rows} key=${search} workspace=${workspace} search=${search} />
    ${adding && html`<${NewAccount} workspaceId=${workspace.id} onClose=${() => setAdding(false)} />`}
  </div>`;
}

function NewAccount({ workspaceId, onClose }) {
  const [name, setName] = useState("");
  const [domain, setDomain] = useState("");
  const save = async () => {
    const values = { workspace_id: workspaceId, name: name.trim(), domain: domain.trim() || null };
    const [made] = await add("accounts", values);
    navigate(`/accounts/${made.id}`);
  };
  return html`<${DialogForm} title="New account" action="Add" run=${save} onClose=${onClose}>
    ${field("Name", name, setName, { required: true, maxlength: 500 })}
    ${field("Domain", domain, setDomain, { maxlength: 253, placeholder: "example.com" })}
  <//>`;
}

/** What a search finds; another search is another list. */
function Rows({ workspace, search }) {
  const accounts = useLivePages(workspace.id, (_, cursor, signal) =>
    page("accounts", workspace.id, { search, cursor, signal }),
  );
  return html`
    <${Freshness} value=${accounts.freshness} />
    ${liveList(
      {
        of: accounts,
        what: "accounts",
        label: "Accounts",
        rows: accounts.value?.flatMap(({ rows }) => rows) ?? [],
        key: (row) => row.id,
        cards: true,
        attributes: (row) => ({ "data-record": row.id }),
        empty: html`<${Empty} title=${search ? "No account matches" : "No accounts yet"}>
          ${search ? "" : "Add one with its domain, and enrich it."}
        <//>`,
      },
      [
        heading("Name", "wrap", (row) => html`<a href=${`/accounts/${row.id}`}>${row.name}</a>`),
        column("Domain", (row) => row.domain ?? "–"),
        column("Industry", (row) => row.industry ?? "–"),
        column("Employees", "num", (row) => number(row.employee_count)),
        column("Place", "wrap", (row) => place(row) || "–"),
        column("Enrichment", (row) => html`<${Enriched} row=${row} />`),
        column("Actions", (row) => enrichButton("account", row.id, row.name)),
      ],
    )}
  `;
}
