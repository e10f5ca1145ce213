// Requests of the enrichment pages. The pages read tables under row level security, and write
// through the HTTP API.

import { callRoute as call, pluralize, supabase, unwrap } from "../../app.js";

const PAGE = 50;
const TEXT = {
  accounts: ["name", "domain", "industry", "city", "country"],
  contacts: ["name", "email", "title"],
};

/** Columns of a CSV file of accounts. */
const COLUMNS = [
  "name",
  "domain",
  "industry",
  "employee_count",
  "annual_revenue",
  "city",
  "state",
  "country",
];
const MAX_ROWS = 1000; // maximum rows of a CSV file, and of a response of the Data API

/** The name that the page shows for each client that writes field values. */
export const SOURCES = { apollo: "Apollo", offline: "Sample" };

/**
 * Read a page of accounts or contacts, in the order of their names. `search` is
 * compared with all text columns.
 */
export async function page(table, workspaceId, { search, cursor = 0, signal }) {
  let query = supabase()
    .from(table)
    .select(table === "contacts" ? "*,accounts(id,name)" : "*")
    .eq("workspace_id", workspaceId);
  if (search)
    query = query.or(TEXT[table].map((column) => `${column}.ilike.*${plain(search)}*`).join(","));
  const rows = await unwrap(
    query
      .order("name")
      .order("id")
      .range(cursor, cursor + PAGE),
    signal,
  );
  return { rows: rows.slice(0, PAGE), next: rows.length > PAGE ? cursor + PAGE : null };
}

/**
 * Replace the characters that have a meaning in filters of the Data API, because versions of the
 * Data API quote these characters differently.
 */
const plain = (text) => text.replace(/[^\p{L}\p{N} -]/gu, "_");

/** Read all accounts of a workspace, with the columns of a CSV file of accounts. */
export async function allAccounts(workspaceId, columns = `${COLUMNS.join(",")},enriched_at`) {
  const accounts = () => supabase().from("accounts").select(columns);
  const rows = [];
  for (;;) {
    const query = accounts().eq("workspace_id", workspaceId).order("name").order("id");
    const next = await unwrap(query.range(rows.length, rows.length + MAX_ROWS - 1));
    rows.push(...next);
    if (next.length === 0) return rows; // a project may set fewer rows per response
  }
}

/** Return the domain in a URL or in a domain of other spelling. Return any other text unchanged. */
function domainOf(text) {
  const address = text?.includes("://") ? text : `http://${text}`;
  const { hostname } = URL.canParse(address) ? new URL(address) : { hostname: "" };
  return hostname.includes(".") ? hostname.replace(/^www\.|\.+$/g, "") : text;
}

/** Add the accounts in the rows of a CSV file. Skip an account if its domain is already known. */
export async function importAccounts(rows, workspaceId) {
  const accounts = accountsIn(rows, workspaceId);
  const stored = await allAccounts(workspaceId, "domain");
  const known = new Set(stored.map(({ domain }) => domainOf(domain)));
  const isNew = ({ domain }) => !domain?.includes(".") || (!known.has(domain) && known.add(domain));
  const added = await add("accounts", accounts.filter(isNew));
  return { added: added.length, skipped: accounts.length - added.length };
}

/** Return the accounts in the rows of a CSV file. Unknown columns of the file are ignored. */
function accountsIn(rows, workspaceId) {
  if (!rows.some(({ name }) => name))
    throw new Error(`The first line must name the columns, such as ${COLUMNS.join(", ")}.`);
  if (rows.length > MAX_ROWS)
    throw new Error(`A file may have at most ${MAX_ROWS} accounts. This file has ${rows.length}.`);
  return rows.map((row, at) => {
    const wrong = ["employee_count", "annual_revenue"].find((column) => isNaN(row[column] ?? 0));
    if (wrong) throw new Error(`Row ${at + 1}: “${row[wrong]}” is not a number.`);
    if (!row.name?.trim()) throw new Error(`Row ${at + 1} has no name.`);
    const values = COLUMNS.map((column) => [column, row[column]?.trim() || null]);
    const account = { workspace_id: workspaceId, ...Object.fromEntries(values) };
    return { ...account, domain: domainOf(account.domain) };
  });
}

export const accountOf = async (id, signal) =>
  (await unwrap(supabase().from("accounts").select("*").eq("id", id).limit(1), signal))[0] ?? null;
export const contactsOf = (accountId, signal) =>
  unwrap(
    supabase().from("contacts").select("*").eq("account_id", accountId).order("name").limit(200),
    signal,
  );
const enrichmentsOf = (kind) =>
  supabase().from("jobs").select("*").eq("job_type", `enrich_${kind}`);
export const jobsOf = (accountId, signal) =>
  unwrap(
    enrichmentsOf("account")
      .eq("payload->>account_id", accountId)
      .order("created_at", { ascending: false })
      .limit(5),
    signal,
  );
/**
 * Read the enrichment jobs of a workspace that run or found nothing. Returns a map from the id of
 * each record to its latest job.
 */
export async function openJobs(kind, workspaceId, signal) {
  const jobs = await unwrap(
    enrichmentsOf(kind)
      .eq("workspace_id", workspaceId)
      .or('status.in.(pending,processing,waiting),result->>outcome.eq."no match"')
      .order("created_at", { ascending: false })
      .limit(200),
    signal,
  );
  return new Map(jobs.reverse().map((job) => [job.payload[`${kind}_id`], job]));
}

/**
 * Change fields of an account as a person. An enrichment does not overwrite fields that a person
 * has changed.
 */
export const edit = (id, changes) =>
  unwrap(supabase().from("accounts").update(changes).eq("id", id).select("*"));
export const add = (table, values) => unwrap(supabase().from(table).insert(values).select("*"));

/** Describe the maximum cost of a number of calls to Apollo. */
export const costOf = (count) => `at most ${pluralize(count, "credit")}`;

export const enrichment = (kind, id) =>
  kind === "account"
    ? call("POST /api/accounts/{account_id}/enrich", { params: { account_id: id } })
    : call("POST /api/contacts/{contact_id}/enrich", { params: { contact_id: id } });

const of = (workspaceId) => ({ workspace_id: workspaceId });

export const apiSettings = {
  get: (workspaceId, signal) =>
    call("GET /api/workspaces/{workspace_id}/settings", { params: of(workspaceId), signal }),
  put: (workspaceId, changes) =>
    call("PUT /api/workspaces/{workspace_id}/settings", { params: of(workspaceId), body: changes }),
  removeKey: (workspaceId) =>
    call("DELETE /api/workspaces/{workspace_id}/settings", { params: of(workspaceId) }),
  test: (workspaceId, key) =>
    call("POST /api/workspaces/{workspace_id}/settings/test-connection", {
      params: of(workspaceId),
      body: key ? { apollo_api_key: key } : {},
    }),
};
