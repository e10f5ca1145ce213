// Written by `python -m infra.release.console_types` from the OpenAPI document; do not edit.
// This file has no counterpart at run time.

/** Any JSON, such as a payload or a result. */
export type Json = any;

export interface Routes {
  "GET /api/v1/executions": { query: {
  /** One of the caller's workspaces; all of them when absent. */
  workspace_id?: string | null;
  job_id?: string | null;
  jobspec_id?: string | null;
  region?: string | null;
  status?: "pending" | "processing" | "completed" | "failed" | "cancelled" | null;
  /** The `next` of the page before. */
  cursor?: string | null;
  limit?: number;
}; body: undefined; answer: ExecutionPage };
  "GET /api/v1/executions/{id}": { query: undefined; body: undefined; answer: ExecutionState };
  "GET /api/v1/executions/{id}/receipt": { query: undefined; body: undefined; answer: Receipt };
  "GET /api/v1/jobs": { query: {
  /** One of the caller's workspaces; all of them when absent. */
  workspace_id?: string | null;
  jobspec_id?: string | null;
  status?: "created" | "queued" | "processing" | "completed" | "failed" | "cancelled" | null;
  created_after?: string | null;
  created_before?: string | null;
  /** The `next` of the page before. */
  cursor?: string | null;
  limit?: number;
}; body: undefined; answer: minutehand__apps__beacon__job_routes__JobPage };
  "POST /api/v1/jobs": { query: undefined; body: Submission; answer: Submitted };
  "GET /api/v1/jobs/{id}": { query: {
  /** One of the caller's workspaces; all of them when absent. */
  workspace_id?: string | null;
}; body: undefined; answer: JobState };
  "GET /api/v1/jobs/{id}/bundle": { query: {
  /** One of the caller's workspaces; all of them when absent. */
  workspace_id?: string | null;
}; body: undefined; answer: Bundle };
  "POST /api/v1/jobs/{id}/cancel": { query: {
  /** One of the caller's workspaces; all of them when absent. */
  workspace_id?: string | null;
}; body: undefined; answer: Submitted };
  "GET /api/v1/keys": { query: undefined; body: undefined; answer: KeySet };
  "GET /api/v1/outbox": { query: {
  /** One of the caller's workspaces; all of them when absent. */
  workspace_id?: string | null;
  status?: "pending" | "published" | "dead" | "cancelled" | null;
  /** The `next` of the page before. */
  cursor?: string | null;
  limit?: number;
}; body: undefined; answer: OutboxPage };
  "POST /api/v1/outbox/redrive": { query: undefined; body: Redrive; answer: Redriven };
  "POST /api/v1/receipts/verify": { query: {
  /** Pass even if the job spec is missing. */
  partial?: boolean;
}; body: Bundle; answer: Verification };
  "GET /api/v1/schemas": { query: undefined; body: undefined; answer: { [name: string]: string } };
  "GET /api/v1/schemas/{name}": { query: undefined; body: undefined; answer: { [name: string]: Json } };
}

export type Benchmark = {
  name: string;
  [name: string]: Json | undefined;
};

export type Bundle = {
  format?: "minutehand-beacon-bundle/1";
  jobspec?: { [name: string]: Json } | null;
  receipts: { [name: string]: Json }[];
};

export type CheckMade = {
  subject: string;
  check: string;
  state: "passed" | "failed" | "not_made";
  detail: string;
};

export type Constraints = {
  /** Each once. */
  regions: string[];
  /** Regions that must succeed; at most as many as there are. */
  min_regions: number;
  /** Seconds from the start of the job until an execution counts as failed; 3600 when absent. */
  timeout?: number | null;
  /** What becomes of executions still running once min_regions succeeded: keep waits for them, cancel ends the job at once. */
  stragglers?: "keep" | "cancel";
};

export type ExecutionOfJob = {
  id: string;
  region: string;
  model: string;
  provider: string | null;
  status: "pending" | "processing" | "completed" | "failed" | "cancelled";
  error: string | null;
  receipt_id: string | null;
  receipt_number: number | null;
  created_at: string;
  started_at: string | null;
  completed_at: string | null;
};

export type ExecutionPage = {
  executions: ListedExecution[];
  /** Pass as `cursor` for more; null at the end. */
  next: string | null;
};

export type ExecutionState = {
  id: string;
  region: string;
  model: string;
  provider: string | null;
  status: "pending" | "processing" | "completed" | "failed" | "cancelled";
  error: string | null;
  receipt_id: string | null;
  receipt_number: number | null;
  created_at: string;
  started_at: string | null;
  completed_at: string | null;
  output: Output | null;
  workspace_id: string;
  job_id: string;
  jobspec_id: string;
};

export type ExecutionWithOutput = {
  id: string;
  region: string;
  model: string;
  provider: string | null;
  status: "pending" | "processing" | "completed" | "failed" | "cancelled";
  error: string | null;
  receipt_id: string | null;
  receipt_number: number | null;
  created_at: string;
  started_at: string | null;
  completed_at: string | null;
  output: Output | null;
};

export type Hashes = {
  /** Of the job spec. */
  jobspec: string;
  /** Of the member `output`. */
  output: string;
  /** Of the workspace's receipt before this one, whole; null for the first. */
  previous: string | null;
};

export type JobState = {
  id: string;
  workspace_id: string;
  jobspec_id: string;
  version: string;
  priority: number;
  status: "created" | "queued" | "processing" | "completed" | "failed" | "cancelled";
  /** Why it failed; null otherwise. */
  error: string | null;
  /** Regions that succeeded; filled at the end. */
  reached: string[];
  outbox_status: "pending" | "published" | "dead" | "cancelled";
  /** Follow it live by this job of the queue. */
  queue_job_id: string | null;
  created_by: string | null;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
  spec: { [name: string]: Json };
  executions: ExecutionWithOutput[];
};

export type KeySet = {
  keys: { [name: string]: Json }[];
};

export type ListedExecution = {
  id: string;
  region: string;
  model: string;
  provider: string | null;
  status: "pending" | "processing" | "completed" | "failed" | "cancelled";
  error: string | null;
  receipt_id: string | null;
  receipt_number: number | null;
  created_at: string;
  started_at: string | null;
  completed_at: string | null;
  workspace_id: string;
  job_id: string;
  jobspec_id: string;
};

export type ListedJob = {
  id: string;
  workspace_id: string;
  jobspec_id: string;
  version: string;
  priority: number;
  status: "created" | "queued" | "processing" | "completed" | "failed" | "cancelled";
  /** Why it failed; null otherwise. */
  error: string | null;
  /** Regions that succeeded; filled at the end. */
  reached: string[];
  outbox_status: "pending" | "published" | "dead" | "cancelled";
  /** Follow it live by this job of the queue. */
  queue_job_id: string | null;
  created_by: string | null;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
  executions: ExecutionOfJob[];
};

export type ModelRef = {
  id: string;
  [name: string]: Json | undefined;
};

export type OutboxEntry = {
  id: string;
  workspace_id: string;
  job_id: string;
  message: { [name: string]: Json };
  status: "pending" | "published" | "dead" | "cancelled";
  attempts: number;
  next_attempt_at: string;
  error: string | null;
  queue_job_id: string | null;
  created_at: string;
  published_at: string | null;
};

export type OutboxPage = {
  messages: OutboxEntry[];
  /** Pass as `cursor` for more; null at the end. */
  next: string | null;
};

export type Output = {
  data: OutputData;
};

export type OutputData = {
  responses: Response[];
};

export type Question = {
  id: string;
  question: string;
  category: string;
};

export type Receipt = {
  format: "minutehand-beacon-receipt/1";
  id: string;
  workspace_id: string;
  number: number;
  job_id: string;
  jobspec_id: string;
  jobspec_version: string;
  execution_id: string;
  region: string;
  provider: string;
  model: string;
  started_at: string;
  completed_at: string;
  issued_at: string;
  output: Output;
  hashes: Hashes;
  software: string;
  key_id: string;
  signature: string;
};

export type Redrive = {
  /** Needed by members of several workspaces. */
  workspace_id?: string | null;
  /** Messages or jobs; all when absent. */
  ids?: string[] | null;
};

export type Redriven = {
  count: number;
};

export type Response = {
  question_id: string;
  question: string;
  response: string;
  category: string | null;
  duration_ms: number;
};

export type Submission = {
  jobspec_id: string;
  version: string | number;
  benchmark: Benchmark;
  constraints: Constraints;
  /** A string is given the id q1, q2, … by its place. */
  questions: (string | Question)[];
  /** Each once; the provider's own choice when absent. */
  models?: (string | ModelRef)[] | null;
  metadata?: { [name: string]: Json } | null;
  /** Needed by members of several workspaces. */
  workspace_id?: string | null;
  /** Smaller runs first. */
  priority?: number;
};

export type Submitted = {
  id: string;
  jobspec_id: string;
  status: "created" | "queued" | "processing" | "completed" | "failed" | "cancelled";
  workspace_id: string;
};

export type Verification = {
  /** not_made: nothing is wrong, but not everything could be checked. */
  verdict: "passed" | "failed" | "not_made";
  /** Whether it may pass without the job spec. */
  partial: boolean;
  checks: CheckMade[];
};

export type minutehand__apps__beacon__job_routes__JobPage = {
  jobs: ListedJob[];
  /** Pass as `cursor` for more; null at the end. */
  next: string | null;
};
