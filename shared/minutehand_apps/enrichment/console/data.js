// What the enrichment pages read and do: records under row level security, writes by the API.

import { callRoute, supabase, unwrap } from "../../api.js";

/** @import { Call } from "../../api.js" */
/** @import { Job } from "../../lib/jobs/types.js" */
/** @import { Json } from "../../lib/calls.js" */
/** @import { Routes } from "./routes.js" */
/** @typedef {{apollo_source?: string, [name: string]: Json}} Metadata */
/**
 * @typedef {{id: string, workspace_id: string, name: string, domain: string | null, industry: string | null,
 *   employee_count: number | null, annual_revenue: number | null, city: string | null, state: string | null,
 *   country: string | null, enriched_at: string | null, metadata: Metadata}} Account A row of `accounts`.
 */
/**
 * @typedef {{id: string, workspace_id: string, account_id: string | null, name: string | null, email: string | null,
 *   title: string | null, linkedin_url: string | null, enriched_at: string | null, metadata: Metadata}} Contact A row
 *   of `contacts`.
 */
/** @typedef {Contact & {accounts: Pick<Account, "id" | "name"> | null}} ListedContact */
/** @typedef {{accounts: Account, contacts: ListedContact}} Listed A record of a page, by its table. */

/** @type {Call<Routes>} */
const call = callRoute;

const PAGE = 50;
const TEXT = {
  accounts: ["name", "domain", "industry", "city", "country"],
  contacts: ["name", "email", "title"],
};

/**
 * A page of records by name, after so many; `search` matches any text column.
 *
 * @template {keyof Listed} T
 * @param {T} table
 * @param {string} workspaceId
 * @param {{search: string, cursor?: number, signal: AbortSignal}} options
 * @returns {Promise<{rows: Listed[T][], next: number | null}>}
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
      .range(cursor, cursor + PAGE)
      .abortSignal(signal),
  );
  return { rows: rows.slice(0, PAGE), next: rows.length > PAGE ? cursor + PAGE : null };
}

/** A pattern without signs that mean something in a filter: Data APIs differ in how they quote. */
const plain = (/** @type {string} */ text) => text.replace(/[^\p{L}\p{N} -]/gu, "_");

/** @type {(id: string) => Promise<Account | null>} */
export const accountOf = async (id) =>
  (await unwrap(supabase().from("accounts").select("*").eq("id", id).limit(1)))[0] ?? null;
/** @type {(accountId: string) => Promise<Contact[]>} */
export const contactsOf = (accountId) =>
  unwrap(
    supabase().from("contacts").select("*").eq("account_id", accountId).order("name").limit(200),
  );
/** @type {(accountId: string) => Promise<Job[]>} */
export const jobsOf = (accountId) =>
  unwrap(
    supabase()
      .from("jobs")
      .select("*")
      .eq("job_type", "enrich_account")
      .eq("payload->>account_id", accountId)
      .order("created_at", { ascending: false })
      .limit(5),
  );

/** Change an account's fields as a person does: enrichment will not overwrite them. */
export const edit = (/** @type {string} */ id, /** @type {Record<string, unknown>} */ changes) =>
  unwrap(supabase().from("accounts").update(changes).eq("id", id).select("*"));
export const add = (
  /** @type {keyof Listed} */ table,
  /** @type {Record<string, unknown>} */ values,
) => unwrap(supabase().from(table).insert(values).select("*"));

export const enrichment = (/** @type {"account" | "contact"} */ kind, /** @type {string} */ id) =>
  kind === "account"
    ? call("POST /api/accounts/{account_id}/enrich", { places: { account_id: id } })
    : call("POST /api/contacts/{contact_id}/enrich", { places: { contact_id: id } });

const of = (/** @type {string} */ workspaceId) => ({ workspace_id: workspaceId });

export const apiSettings = {
  get: (/** @type {string} */ workspaceId, /** @type {AbortSignal} */ signal) =>
    call("GET /api/workspaces/{workspace_id}/settings", { places: of(workspaceId), signal }),
  /**
   * @param {string} workspaceId
   * @param {Routes["PUT /api/workspaces/{workspace_id}/settings"]["body"]} changes
   */
  put: (workspaceId, changes) =>
    call("PUT /api/workspaces/{workspace_id}/settings", {
      places: of(workspaceId),
      body: changes,
    }),
  removeKey: (/** @type {string} */ workspaceId) =>
    call("DELETE /api/workspaces/{workspace_id}/settings", { places: of(workspaceId) }),
  test: (/** @type {string} */ workspaceId, /** @type {string | null} */ key) =>
    call("POST /api/workspaces/{workspace_id}/settings/test-connection", {
      places: of(workspaceId),
      body: key ? { apollo_api_key: key } : {},
    }),
};
