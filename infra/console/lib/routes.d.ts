// Written by `python -m infra.release.console_types` from the OpenAPI document; do not edit.
// This file has no counterpart at run time.

/** Any JSON, such as a payload or a result. */
export type Json = any;

/** The names in braces of a route. */
export type Places<R extends string> = R extends `${string}{${infer Name}}${infer Rest}`
  ? Name | Places<Rest>
  : never;

export interface Routes {
  "POST /api/events": { query: undefined; body: EmitEvent; answer: { [name: string]: Json } };
  "GET /api/health/ready": { query: undefined; body: undefined; answer: Json };
  "GET /api/jobs": { query: {
  workspace_id?: string | null;
  status?: ("pending" | "processing" | "waiting" | "completed" | "failed" | "cancelled")[] | null;
  job_type?: string | null;
  queue?: string | null;
  session_id?: string | null;
  parent_id?: string | null;
  batch_id?: string | null;
  created_after?: string | null;
  created_before?: string | null;
  search?: string | null;
  id_prefix?: string | null;
  cursor?: string | null;
  /** Sort key; by age if omitted. */
  sort?: "created_at" | "started_at" | "finished_at" | "next_run_at" | "queue_ms" | "run_ms" | "total_ms" | "priority" | "attempts" | null;
  order?: "asc" | "desc";
  /** With `sort`. */
  offset?: number;
  limit?: number;
  state?: ("queued" | "scheduled" | "retrying" | "running" | "suspended" | "completed" | "failed" | "cancelled")[] | null;
  tag?: string | null;
  /** Fields and their values, as a JSON object. */
  payload?: string | null;
  finished_after?: string | null;
  finished_before?: string | null;
  min_run_ms?: number | null;
  max_run_ms?: number | null;
  /** Part of its message. */
  error?: string | null;
  error_type?: string | null;
  error_fingerprint?: string | null;
  worker_id?: string | null;
  /** Of the code that ran it. */
  version?: string | null;
  /** False omits types that only the platform enqueues. */
  internal?: boolean | null;
}; body: undefined; answer: JobPage };
  "POST /api/jobs": { query: undefined; body: CreateJob; answer: EnqueuedJob };
  "POST /api/jobs/bulk": { query: undefined; body: CreateJobs; answer: CreatedJobs };
  "POST /api/jobs/cancel": { query: undefined; body: BulkAction; answer: BulkResult };
  "GET /api/jobs/counts": { query: {
  workspace_id?: string;
  job_type?: string | null;
  queue?: string | null;
  parent_id?: string | null;
}; body: undefined; answer: JobCounts };
  "POST /api/jobs/process": { query: undefined; body: {
  jobTypes: string[];
}; answer: {
  success: boolean;
  duration_ms: number;
  worker_id: string;
  timestamp: string;
} };
  "POST /api/jobs/redrive": { query: undefined; body: BulkAction; answer: BulkResult };
  "GET /api/jobs/worker": { query: undefined; body: undefined; answer: {
  status: string;
  worker_exists: boolean;
  worker_id: string;
  timestamp: string;
  environment: { [name: string]: Json };
} };
  "POST /api/jobs/worker": { query: undefined; body: undefined; answer: {
  success: boolean;
  duration_ms: number;
  worker_id: string;
  timestamp: string;
} };
  "GET /api/jobs/{job_id}": { query: undefined; body: undefined; answer: Job };
  "POST /api/jobs/{job_id}/answer": { query: undefined; body: Answer; answer: Job };
  "GET /api/jobs/{job_id}/attempts": { query: undefined; body: undefined; answer: { [name: string]: Json }[] };
  "POST /api/jobs/{job_id}/cancel": { query: undefined; body: undefined; answer: Job };
  "GET /api/jobs/{job_id}/events": { query: {
  after?: number | null;
  limit?: number;
  access_token?: string | null;
}; body: undefined; answer: EventPage | null };
  "GET /api/jobs/{job_id}/explain": { query: undefined; body: undefined; answer: Explanation };
  "GET /api/jobs/{job_id}/logs": { query: {
  after?: number | null;
  level?: "debug" | "info" | "warning" | "error" | null;
  limit?: number;
}; body: undefined; answer: LogPage };
  "POST /api/jobs/{job_id}/retry": { query: undefined; body: undefined; answer: Job };
  "GET /api/jobs/{job_id}/steps": { query: {
  after_name?: string | null;
  after_nth?: number;
}; body: undefined; answer: JobSteps };
  "GET /api/jobs/{job_id}/trace": { query: undefined; body: undefined; answer: JobTrace };
  "GET /api/logs": { query: {
  workspace_id?: string;
  search?: string | null;
  /** Or worse. */
  level?: "debug" | "info" | "warning" | "error" | null;
  job_type?: string | null;
  job_id?: string | null;
  since?: string | null;
  until?: string | null;
  before?: number | null;
  limit?: number;
}; body: undefined; answer: FoundLines };
  "GET /api/sessions/{session_id}/events": { query: {
  cursor?: string | null;
  access_token?: string | null;
}; body: undefined; answer: FeedPage };
  "GET /api/status": { query: {
  workspace_id?: string | null;
  /** Window, in minutes. */
  minutes?: number;
}; body: undefined; answer: QueueStats };
  "GET /api/types": { query: {
  workspace_id?: string;
  /** Include the platform's own types. */
  internal?: boolean;
}; body: undefined; answer: JobTypes };
  "GET /api/types/{job_type}": { query: {
  workspace_id?: string;
}; body: undefined; answer: JobTypeDetail };
  "GET /api/v1/health": { query: {
  /** 1 waits for the parts; 503 if one failed. */
  deep?: string | null;
}; body: undefined; answer: Json };
  "GET /api/workspaces/{workspace_id}/alerts": { query: undefined; body: undefined; answer: Alerts };
  "DELETE /api/workspaces/{workspace_id}/alerts/{name}": { query: undefined; body: undefined; answer: null };
  "PUT /api/workspaces/{workspace_id}/alerts/{name}": { query: undefined; body: AlertBody; answer: Alert };
  "GET /api/workspaces/{workspace_id}/events": { query: {
  cursor?: string | null;
  from?: "now" | "start";
  access_token?: string | null;
}; body: undefined; answer: FeedPage };
  "GET /api/workspaces/{workspace_id}/limits": { query: undefined; body: undefined; answer: WorkspaceLimits };
  "PATCH /api/workspaces/{workspace_id}/limits": { query: undefined; body: LimitsBody; answer: WorkspaceLimits };
  "GET /api/workspaces/{workspace_id}/members": { query: undefined; body: undefined; answer: Members };
  "PUT /api/workspaces/{workspace_id}/members/{email}": { query: undefined; body: MemberBody; answer: SetMember };
  "DELETE /api/workspaces/{workspace_id}/members/{member}": { query: undefined; body: undefined; answer: null };
  "GET /api/workspaces/{workspace_id}/next-runs": { query: {
  schedule?: string | null;
  cron?: string | null;
  timezone?: string;
  count?: number;
}; body: undefined; answer: NextRuns };
  "POST /api/workspaces/{workspace_id}/pause": { query: undefined; body: PauseBody; answer: Pause };
  "POST /api/workspaces/{workspace_id}/resume": { query: undefined; body: PauseBody; answer: Pause };
  "GET /api/workspaces/{workspace_id}/retention": { query: undefined; body: undefined; answer: Retention };
  "GET /api/workspaces/{workspace_id}/schedules": { query: undefined; body: undefined; answer: Schedules };
  "DELETE /api/workspaces/{workspace_id}/schedules/{name}": { query: undefined; body: undefined; answer: null };
  "PUT /api/workspaces/{workspace_id}/schedules/{name}": { query: undefined; body: ScheduleBody; answer: Schedule };
  "GET /api/workspaces/{workspace_id}/webhooks": { query: undefined; body: undefined; answer: Webhooks };
  "POST /api/workspaces/{workspace_id}/webhooks": { query: undefined; body: WebhookBody; answer: WebhookWithSecret };
  "DELETE /api/workspaces/{workspace_id}/webhooks/{webhook_id}": { query: undefined; body: undefined; answer: null };
  "GET /api/workspaces/{workspace_id}/webhooks/{webhook_id}": { query: undefined; body: undefined; answer: Webhook };
  "PATCH /api/workspaces/{workspace_id}/webhooks/{webhook_id}": { query: undefined; body: WebhookChanges; answer: Webhook };
  "GET /api/workspaces/{workspace_id}/webhooks/{webhook_id}/deliveries": { query: {
  cursor?: string | null;
  limit?: number;
}; body: undefined; answer: JobPage };
  "POST /api/workspaces/{workspace_id}/webhooks/{webhook_id}/rotate-secret": { query: undefined; body: undefined; answer: WebhookWithSecret };
  "GET /health": { query: {
  /** 1 waits for the parts; 503 if one failed. */
  deep?: string | null;
}; body: undefined; answer: Json };
}

export type Alert = {
  id: string;
  workspace_id: string;
  name: string;
  metric: AlertMetric;
  job_type: string | null;
  threshold: number;
  minutes: number;
  whole: boolean;
  mail: string[];
  enabled: boolean;
  raised_at: string | null;
  value: number | null;
  checked_at: string | null;
  last_job_id: string | null;
  created_by: string | null;
  created_at: string;
};

export type AlertBody = {
  metric: AlertMetric;
  /** Fires at this value or above. */
  threshold: number;
  /** Window that is counted. */
  minutes?: number;
  job_type?: string | null;
  /** Members of the workspace. */
  mail?: string[];
  /** Over all workspaces; an operator's. */
  whole?: boolean;
  enabled?: boolean;
};

export type AlertMetric = "failed" | "failure_share" | "queue_p95_seconds" | "oldest_due_seconds" | "queued";

export type Alerts = {
  alerts: Alert[];
};

export type Answer = {
  answer: Json;
};

export type Backoff = {
  first_seconds?: number | null;
  cap_seconds?: number | null;
  factor?: number | null;
};

export type BulkAction = {
  workspace_id: string;
  filter?: JobFilter;
  limit?: number;
  cursor?: BulkCursor | null;
};

export type BulkCursor = {
  created_at: string;
  id: string;
};

export type BulkResult = {
  count: number;
  more: boolean;
  next: { [name: string]: string } | null;
};

export type CallerLimits = {
  enqueues_per_second: number;
  enqueues_burst: number;
  stream_opens_per_second: number;
  stream_opens_burst: number;
  calls_at_once: number;
};

export type CreateJob = {
  queue?: string | null;
  /** Smaller runs first; 100 by default. */
  priority?: number | null;
  scheduled_for?: string | null;
  delay_seconds?: number | null;
  max_attempts?: number | null;
  idempotency_key?: string | null;
  idempotency_ttl_seconds?: number | null;
  concurrency_key?: string | null;
  session_id?: string | null;
  parent_id?: string | null;
  deadline_at?: string | null;
  timeout_seconds?: number | null;
  backoff?: Backoff | null;
  after?: string[] | null;
  after_failed?: "fail" | "run" | "cancel" | null;
  unique?: Unique | null;
  debounce_seconds?: number | null;
  batch_id?: string | null;
  schema_version?: number | null;
  /** Words to find the job by. */
  tags?: string[] | null;
  job_type: string;
  payload?: { [name: string]: Json };
  workspace_id: string;
};

export type CreateJobs = {
  workspace_id: string;
  jobs: JobSpec[];
};

export type CreatedJob = {
  job: Job;
  created: boolean;
};

export type CreatedJobs = {
  jobs: CreatedJob[];
  warning: string | null;
};

export type EmitEvent = {
  workspace_id: string;
  name: string;
  payload?: { [name: string]: Json };
};

export type EnqueuedJob = {
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
  /** Set when no running worker serves its type; else null. */
  warning: string | null;
};

export type EventPage = {
  events: JobEvent[];
  next_after: number | null;
};

export type Explanation = {
  job_id: string;
  status: "pending" | "processing" | "waiting" | "completed" | "failed" | "cancelled";
  reason: string;
  sentence: string;
  data: Json;
  estimated_start_at: string | null;
};

export type FeedPage = {
  events: JobEvent[];
  cursor: string;
  more: boolean;
  reset: boolean;
};

export type FoundLine = {
  id: number;
  job_id: string;
  job_type: string;
  attempt: number | null;
  log_level: string;
  message: string;
  metadata: Json;
  created_at: string;
};

export type FoundLines = {
  lines: FoundLine[];
  next: number | null;
};

export type Invitation = {
  email: string;
  role: "manager" | "member";
  created_at: string;
  expires_at: string;
  invited_by: string | null;
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

export type JobCounts = {
  counts: { [name: string]: number };
  states: { [name: string]: number };
  at_least: ("pending" | "processing" | "waiting" | "completed" | "failed" | "cancelled")[];
};

export type JobEvent = {
  job_id: string;
  seq: number;
  type: string;
  data: Json;
  created_at: string;
};

export type JobFilter = {
  job_type?: string | null;
  queue?: string | null;
  status?: "pending" | "processing" | "waiting" | "completed" | "failed" | "cancelled" | null;
  state?: "queued" | "scheduled" | "retrying" | "running" | "suspended" | "completed" | "failed" | "cancelled" | null;
  session_id?: string | null;
  error_fingerprint?: string | null;
  created_before?: string | null;
  created_after?: string | null;
  tag?: string | null;
  ids?: string[] | null;
};

export type JobLog = {
  id: number;
  job_id: string;
  attempt: number | null;
  log_level: string;
  message: string;
  metadata: Json;
  created_at: string;
};

export type JobPage = {
  jobs: Job[];
  next_cursor: string | null;
  more: boolean | null;
  cut: boolean | null;
};

export type JobSpec = {
  queue?: string | null;
  /** Smaller runs first; 100 by default. */
  priority?: number | null;
  scheduled_for?: string | null;
  delay_seconds?: number | null;
  max_attempts?: number | null;
  idempotency_key?: string | null;
  idempotency_ttl_seconds?: number | null;
  concurrency_key?: string | null;
  session_id?: string | null;
  parent_id?: string | null;
  deadline_at?: string | null;
  timeout_seconds?: number | null;
  backoff?: Backoff | null;
  after?: string[] | null;
  after_failed?: "fail" | "run" | "cancel" | null;
  unique?: Unique | null;
  debounce_seconds?: number | null;
  batch_id?: string | null;
  schema_version?: number | null;
  /** Words to find the job by. */
  tags?: string[] | null;
  job_type: string;
  payload?: { [name: string]: Json };
};

export type JobSteps = {
  steps: Step[];
  next: { [name: string]: Json } | null;
  waiting_for: { [name: string]: Json } | null;
};

export type JobTrace = {
  now: string;
  more: boolean;
  jobs: TracedJob[];
};

export type JobTypeDetail = {
  job_type: string;
  queue: string;
  description: string | null;
  source: string | null;
  version: number;
  internal: boolean;
  paused_at: string | null;
  pause_reason: string | null;
  registered_at: string | null;
  served: boolean;
  last_seen_at: string | null;
  workers: number;
  code_versions: string[];
  schedule_count: number;
  day: TypeDay;
  now: string;
  payload_schema: { [name: string]: Json } | null;
  events: "full" | "minimal";
  live: "full" | "states" | "off";
  tagged_by: string[];
  limits: { [name: string]: Json };
  serving: ServingWorker[];
  schedules: TypeSchedule[];
};

export type JobTypeLine = {
  job_type: string;
  queue: string;
  description: string | null;
  source: string | null;
  version: number;
  internal: boolean;
  paused_at: string | null;
  pause_reason: string | null;
  registered_at: string | null;
  served: boolean;
  last_seen_at: string | null;
  workers: number;
  code_versions: string[];
  schedule_count: number;
  day: TypeDay;
};

export type JobTypes = {
  now: string;
  types: JobTypeLine[];
};

export type LimitsBody = {
  own_max_running: number | null;
};

export type LogPage = {
  logs: JobLog[];
  next_after: number | null;
};

export type Member = {
  user_id: string;
  email: string | null;
  role: "manager" | "member";
  created_at: string;
};

export type MemberBody = {
  role?: "manager" | "member";
};

export type MemberChange = {
  action: string;
  email: string | null;
  user_id: string | null;
  role: "manager" | "member" | null;
  actor: string | null;
  actor_role: string;
  created_at: string;
};

export type Members = {
  workspace_id: string;
  members: Member[];
  invitations: Invitation[];
  changes: MemberChange[];
};

export type NextRuns = {
  cron: string;
  timezone: string;
  runs: string[];
};

export type Pause = {
  workspace_id: string;
  job_type: string | null;
  paused: boolean;
};

export type PauseBody = {
  job_type?: string | null;
  reason?: string | null;
};

export type Percentiles = {
  p50_ms: number | null;
  p95_ms: number | null;
  p99_ms: number | null;
};

export type Progress = {
  percentage: number | null;
  stage: string | null;
  message: string | null;
};

export type QueueStats = { [name: string]: Json };

export type Quota = {
  max: number;
  used: number;
};

export type Removed = {
  day: string;
  completed: number;
  cancelled: number;
  failed: number;
  removed_at: string;
};

export type Retention = {
  workspace_id: string;
  days: RetentionDays;
  types: TypeRetention[];
  checked_at: string | null;
  removed: Removed[];
};

export type RetentionDays = {
  completed: number;
  cancelled: number;
  failed: number;
};

export type Schedule = {
  id: string;
  workspace_id: string;
  name: string;
  cron: string;
  timezone: string;
  job_type: string;
  payload: Json;
  options: { [name: string]: Json };
  missed: "once" | "skip" | "all";
  enabled: boolean;
  next_at: string | null;
  last_slot_at: string | null;
  last_job_id: string | null;
  problem: string | null;
  created_by: string | null;
  created_at: string;
  updated_at: string;
};

export type ScheduleBody = {
  cron: string;
  timezone?: string;
  job_type: string;
  payload?: { [name: string]: Json };
  /** queue, priority, max_attempts and the like. */
  options?: { [name: string]: Json };
  missed?: "once" | "skip" | "all";
  enabled?: boolean;
};

export type Schedules = {
  schedules: Schedule[];
};

export type ServingWorker = {
  worker_id: string;
  version: string | null;
  started_at: string;
  seen_at: string;
  queues: string[] | null;
};

export type SetMember = {
  workspace_id: string;
  email: string;
  role: "manager" | "member";
  user_id: string | null;
  state: "member" | "invited";
};

export type Step = {
  name: string;
  result: Json;
  created_at: string | null;
};

export type Times = {
  queue_ms: number | null;
  run_ms: number;
  runs: number;
  wait_ms: number;
  total_ms: number;
};

export type TracedAttempt = {
  attempt: number;
  fence: number;
  worker_id: string | null;
  leased_at: string;
  ended_at: string | null;
  outcome: string | null;
  error_message: string | null;
};

export type TracedJob = {
  id: string;
  parent_id: string | null;
  job_type: string;
  status: "pending" | "processing" | "waiting" | "completed" | "failed" | "cancelled";
  created_at: string;
  scheduled_for: string | null;
  finished_at: string | null;
  next_retry_at: string | null;
  error_message: string | null;
  percentage: number | null;
  attempts: TracedAttempt[];
  steps: TracedStep[];
};

export type TracedStep = {
  name: string;
  kind: "step" | "sleep" | "ask" | "event" | "children" | "after";
  started_at: string | null;
  ended_at: string | null;
  timeout_at: string | null;
  event: string | null;
  question: string | null;
};

export type TypeDay = {
  enqueued: number;
  completed: number;
  failed: number;
  cancelled: number;
  retried: number;
  lost: number;
  success_rate: number | null;
  run: Percentiles;
  queue: Percentiles;
};

export type TypeRetention = {
  job_type: string;
  days: RetentionDays;
};

export type TypeSchedule = {
  name: string;
  cron: string;
  timezone: string;
  enabled: boolean;
  next_at: string | null;
  last_slot_at: string | null;
  problem: string | null;
  source: string | null;
};

export type Unique = {
  key: string;
  until?: "leased" | "finished" | null;
  on_conflict?: "skip" | "replace" | "raise" | null;
};

export type Webhook = {
  id: string;
  workspace_id: string;
  url: string;
  description: string | null;
  event_types: string[] | null;
  job_types: string[] | null;
  enabled: boolean;
  failures: number;
  disabled_at: string | null;
  disabled_reason: string | null;
  last_delivered_at: string | null;
  last_status: number | null;
  problem: string | null;
  rotated_at: string | null;
  created_by: string | null;
  created_at: string;
};

export type WebhookBody = {
  url: string;
  description?: string | null;
  event_types?: string[] | null;
  job_types?: string[] | null;
  enabled?: boolean;
};

export type WebhookChanges = {
  url?: string | null;
  description?: string | null;
  event_types?: string[] | null;
  job_types?: string[] | null;
  enabled?: boolean | null;
};

export type WebhookWithSecret = {
  id: string;
  workspace_id: string;
  url: string;
  description: string | null;
  event_types: string[] | null;
  job_types: string[] | null;
  enabled: boolean;
  failures: number;
  disabled_at: string | null;
  disabled_reason: string | null;
  last_delivered_at: string | null;
  last_status: number | null;
  problem: string | null;
  rotated_at: string | null;
  created_by: string | null;
  created_at: string;
  secret: string;
};

export type Webhooks = {
  webhooks: Webhook[];
};

export type WorkspaceLimits = {
  workspace_id: string;
  weight: number;
  max_running: number | null;
  own_max_running: number | null;
  max_pending: number | null;
  default_max_pending: number | null;
  running: number;
  quotas: { [name: string]: Quota };
  per_caller: CallerLimits | null;
};
