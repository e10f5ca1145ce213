// Written by `python -m infra.release.console_types` from the OpenAPI document; do not edit.
// This file has no counterpart at run time.

/** Any JSON, such as a payload or a result. */
export type Json = any;

export interface Routes {
  "POST /api/accounts/enrich": { query: undefined; body: EnrichSelection; answer: SelectionResult };
  "POST /api/accounts/import": { query: undefined; body: UploadedImport; answer: CreatedImport };
  "POST /api/accounts/import/upload": { query: undefined; body: AskUpload; answer: Upload };
  "GET /api/accounts/imports/{import_id}": { query: undefined; body: undefined; answer: Import };
  "GET /api/accounts/imports/{import_id}/errors.csv": { query: undefined; body: undefined; answer: Json };
  "POST /api/accounts/{account_id}/enrich": { query: undefined; body: undefined; answer: Job };
  "POST /api/contacts/{contact_id}/enrich": { query: undefined; body: undefined; answer: Job };
  "DELETE /api/workspaces/{workspace_id}/settings": { query: undefined; body: undefined; answer: WorkspaceSettings };
  "GET /api/workspaces/{workspace_id}/settings": { query: undefined; body: undefined; answer: WorkspaceSettings };
  "PUT /api/workspaces/{workspace_id}/settings": { query: undefined; body: ChangeSettings; answer: WorkspaceSettings };
  "POST /api/workspaces/{workspace_id}/settings/reseal": { query: undefined; body: undefined; answer: Job };
  "POST /api/workspaces/{workspace_id}/settings/test-connection": { query: undefined; body: TestConnection | null; answer: ConnectionTest };
}

export type AccountFilter = {
  /** Enriched before, or never. */
  enriched?: boolean | null;
  industry?: string | null;
  country?: string | null;
  created_after?: string | null;
};

export type AskUpload = {
  workspace_id: string;
  total_bytes: number;
};

export type ChangeSettings = {
  /** A new key. */
  apollo_api_key?: string;
  apollo_client?: "apollo" | "offline" | null;
  apollo_auto_enrich?: boolean;
};

export type ConnectionTest = {
  ok: boolean;
  source: "apollo" | "offline" | null;
  /** null when the key may not read its balance. */
  credits_remaining: number | null;
  /** not_configured, wrong_key, rate_limited, out_of_credits, unreachable, … */
  reason: string | null;
  message: string | null;
  retry_after_seconds: number | null;
};

export type CreatedImport = {
  import: Import;
  job: Job;
};

export type EnrichSelection = {
  workspace_id: string;
  account_ids?: string[] | null;
  filter?: AccountFilter | null;
  limit?: number;
  /** `next` of the call before. */
  after?: string | null;
};

export type Import = {
  id: string;
  workspace_id: string;
  job_id: string | null;
  object_key: string;
  file_name: string;
  total_bytes: number;
  enrich: boolean;
  rows_read: number;
  rows_created: number;
  rows_updated: number;
  rows_failed: number;
  bytes_read: number;
  columns: { [name: string]: Json } | null;
  finished_at: string | null;
  /** Where the refused rows can be downloaded. */
  errors_url: string;
};

export type Job = {
  id: string;
  workspace_id: string;
  user_id: string | null;
  session_id: string | null;
  queue: string;
  job_type: string;
  payload: Json;
  status: "pending" | "processing" | "waiting" | "completed" | "failed" | "cancelled";
  priority: number;
  progress: Progress | null;
  result: Json;
  error_message: string | null;
  error_data: Json;
  attempts: number;
  max_attempts: number;
  next_retry_at: string | null;
  scheduled_for: string | null;
  started_at: string | null;
  finished_at: string | null;
  completed_at: string | null;
  created_at: string;
  updated_at: string | null;
  idempotency_key: string | null;
  concurrency_key: string | null;
  tags: string[];
  parent_id: string | null;
  fence: number;
  last_seq: number;
  generation: number;
  cancel_requested_at: string | null;
  deadline_at: string | null;
  timeout_seconds: number | null;
  batch_id: string | null;
  traceparent: string | null;
  schema_version: number | null;
  snoozes: number;
  lost_attempts: number;
  state: "queued" | "scheduled" | "retrying" | "running" | "suspended" | "completed" | "failed" | "cancelled" | null;
  next_run_at: string | null;
  waiting_for: { [name: string]: Json } | null;
  running_since: string | null;
  worker_id: string | null;
  times: Times | null;
};

export type KeyState = {
  configured: boolean;
  last4: string | null;
};

export type Progress = {
  percentage: number | null;
  stage: string | null;
  message: string | null;
};

export type SelectedJob = {
  job: Job;
  created: boolean;
};

export type SelectionResult = {
  count: number;
  created: number;
  deduplicated: number;
  jobs: SelectedJob[];
  /** Pass as `after` for the rest, if any. */
  next: string | null;
};

export type TestConnection = {
  /** A key that is not stored yet; the stored one if omitted. */
  apollo_api_key?: string | null;
};

export type Times = {
  queue_ms: number | null;
  run_ms: number;
  runs: number;
  wait_ms: number;
  total_ms: number;
};

export type Upload = {
  import_id: string;
  url: string;
  headers: { [name: string]: string };
  expires_in_seconds: number;
};

export type UploadedImport = {
  workspace_id: string;
  import_id: string;
  file_name?: string;
  enrich?: boolean;
};

export type WorkspaceSettings = {
  workspace_id: string;
  apollo_api_key: KeyState;
  /** null uses the deployment's setting. */
  apollo_client: "apollo" | "offline" | null;
  apollo_auto_enrich: boolean;
  /** Until when Apollo asked this key to wait. */
  apollo_paused_until: string | null;
  enrichment_credits_used: number;
  /** Calls without an answer, which may or may not have cost a credit. */
  enrichment_calls_unanswered: number;
  can_manage: boolean;
  updated_at: string | null;
};
