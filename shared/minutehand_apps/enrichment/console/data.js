// What the enrichment pages read and do: records under row level security, writes by the API.

import { callRoute, filled, request, supabase, unwrap } from "../../api.js";

/** @import { Call } from "../../api.js" */
/** @import { Job } from "../../lib/jobs/types.js" */
/** @import { Json } from "../../lib/calls.js" */
/** @import { Routes } from "./routes.js" */
/** @typedef {{apollo_source?: string, [name: string]: Json}} Metadata */
/**
 * @typedef {{id: string, workspace_id: string, name: string, domain: string | null, industry: string | null,
 *   employee_count: number | null, annual_revenue: number | null, city: string | null, state: string | null,
 *   country: string | null, enriched_at: string | null, metadata: Metadata, edited_at: Record<string, string>,
 *   created_at: string, updated_at: string}} Account A row of `accounts`.
 */
/**
 * @typedef {{id: string, workspace_id: string, account_id: string | null, name: string | null, email: string | null,
 *   title: string | null, linkedin_url: string | null, enriched_at: string | null, metadata: Metadata,
 *   edited_at: Record<string, string>, created_at: string, updated_at: string}} Contact A row of `contacts`.
 */
/** @typedef {Contact & {accounts: Pick<Account, "id" | "name"> | null}} ListedContact */
/** @typedef {{accounts: Account, contacts: Contact}} Rows A row, by its table. */
/** @typedef {{accounts: Account, contacts: ListedContact}} Listed A record of a page, by its table. */
/** @typedef {{name: string | null, id: string}} Place The last record of a page. */
/** @typedef {{search?: string, enriched?: string}} RecordFilter `enriched` is `yes`, `no`, or any other for both. */
/** @typedef {{row_number: number, field: string | null, problem: string, line: string}} RefusedRow */
/**
 * @typedef {{id: string, file_name: string, created_at: string, finished_at: string | null, rows_read: number,
 *   rows_failed: number}} RecentImport
 */

/** @type {Call<Routes>} */
const call = callRoute;

export const PAGE = 100;
const TEXT = {
  accounts: ["name", "domain", "industry", "city", "country"],
  contacts: ["name", "email", "title"],
};

/**
 * A page of records by name, the nameless last, after a cursor `{name, id}`; `search` matches any
 * text column.
 *
 * @template {keyof Listed} T
 * @param {T} table
 * @param {string} workspaceId
 * @param {RecordFilter & {cursor?: Place | null}} [filter]
 * @returns {Promise<{rows: Listed[T][], next: Place | null}>}
 */
export async function page(table, workspaceId, { search, enriched, cursor } = {}) {
  const select = () => {
    let query = supabase()
      .from(table)
      .select(table === "contacts" ? "*,accounts(id,name)" : "*")
      .eq("workspace_id", workspaceId);
    if (search)
      query = query.or(TEXT[table].map((column) => `${column}.ilike.*${plain(search)}*`).join(","));
    if (enriched === "yes") query = query.not("enriched_at", "is", null);
    if (enriched === "no") query = query.is("enriched_at", null);
    return query;
  };
  /** @type {Listed[T][]} */
  const rows = [];
  for (const narrow of stretches(cursor)) {
    if (rows.length <= PAGE)
      rows.push(
        ...(await unwrap(
          narrow(select())
            .order("name")
            .order("id")
            .limit(PAGE + 1 - rows.length),
        )),
      );
  }
  const last = rows[PAGE - 1];
  return {
    rows: rows.slice(0, PAGE),
    next: rows.length > PAGE ? { name: last.name, id: last.id } : null,
  };
}

/** What follows a cursor, one stretch after the other: `or` would need quotes, see `plain`. */
function stretches(/** @type {Place | null | undefined} */ cursor) {
  if (!cursor) return [(/** @type {any} */ query) => query];
  const nameless = (/** @type {any} */ query) => query.is("name", null);
  if (cursor.name === null)
    return [(/** @type {any} */ query) => nameless(query).gt("id", cursor.id)];
  return [
    (/** @type {any} */ query) => query.eq("name", cursor.name).gt("id", cursor.id),
    (/** @type {any} */ query) => query.gt("name", cursor.name),
    nameless,
  ];
}

/** A pattern without signs that mean something in a filter: Data APIs differ in how they quote. */
const plain = (/** @type {string} */ text) => text.replace(/[^\p{L}\p{N} -]/gu, "_");

/** @type {<T extends keyof Rows>(table: T, id: string) => Promise<Rows[T] | null>} */
export const byId = async (table, id) =>
  (await unwrap(supabase().from(table).select("*").eq("id", id).limit(1)))[0] ?? null;
/** @type {(accountId: string) => Promise<Contact[]>} */
export const contactsOf = (accountId) =>
  unwrap(
    supabase().from("contacts").select("*").eq("account_id", accountId).order("name").limit(200),
  );
/** @type {(type: string, name: string, id: string) => Promise<Job[]>} */
export const jobsOf = (type, name, id) =>
  unwrap(
    supabase()
      .from("jobs")
      .select("*")
      .eq("job_type", type)
      .eq(`payload->>${name}`, id)
      .order("created_at", { ascending: false })
      .limit(5),
  );

/** Change a record's fields as a person does: enrichment will not overwrite them. */
export const edit = (
  /** @type {keyof Rows} */ table,
  /** @type {string} */ id,
  /** @type {Record<string, unknown>} */ changes,
) => unwrap(supabase().from(table).update(changes).eq("id", id).select("*"));
export const add = (
  /** @type {keyof Rows} */ table,
  /** @type {Record<string, unknown>} */ values,
) => unwrap(supabase().from(table).insert(values).select("*"));

export const enrichment = {
  account: (/** @type {string} */ id) =>
    call("POST /api/accounts/{account_id}/enrich", { places: { account_id: id } }),
  contact: (/** @type {string} */ id) =>
    call("POST /api/contacts/{contact_id}/enrich", { places: { contact_id: id } }),
  /**
   * @param {string} workspaceId
   * @param {Omit<Routes["POST /api/accounts/enrich"]["body"], "workspace_id">} selection
   */
  selection: (workspaceId, selection) =>
    call("POST /api/accounts/enrich", { body: { workspace_id: workspaceId, ...selection } }),
};

export const imports = {
  start(
    /** @type {string} */ workspaceId,
    /** @type {File} */ file,
    /** @type {boolean} */ enrich,
  ) {
    const form = new FormData();
    form.set("workspace_id", workspaceId);
    form.set("enrich", String(enrich));
    form.set("file", file, file.name);
    return call("POST /api/accounts/import", { form });
  },
  get: (/** @type {string} */ id, /** @type {AbortSignal} */ signal) =>
    call("GET /api/accounts/imports/{import_id}", { places: { import_id: id }, signal }),
  /**
   * The first rows that were refused, and why.
   *
   * @type {(id: string, signal: AbortSignal) => Promise<RefusedRow[]>}
   */
  firstErrors: (id, signal) =>
    unwrap(
      supabase()
        .from("account_import_errors")
        .select("row_number,field,problem,line")
        .eq("import_id", id)
        .order("row_number")
        .limit(20)
        .abortSignal(signal),
    ),
  /** @type {(workspaceId: string, signal: AbortSignal) => Promise<RecentImport[]>} */
  recent: (workspaceId, signal) =>
    unwrap(
      supabase()
        .from("account_imports")
        .select("id,file_name,created_at,finished_at,rows_read,rows_failed")
        .eq("workspace_id", workspaceId)
        .order("created_at", { ascending: false })
        .order("id", { ascending: false })
        .limit(5)
        .abortSignal(signal),
    ),
  errors: (/** @type {string} */ id) =>
    request(...filled("GET /api/accounts/imports/{import_id}/errors.csv", { import_id: id }), {
      as: "blob",
    }),
};

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
