// Our tables, views and functions in the shape of `supabase gen types`, for supabase-js.
// The catalogue decides: tests/e2e/npm/test_database_types.py compares them name by name.

import type {
  Artefact,
  Attempt,
  Cursor,
  DeadLetterGroup,
  DescribedJob,
  Enqueued,
  EnqueuedBatch,
  EnqueueOptions,
  Explanation,
  FeedPage,
  FoundLine,
  Job,
  JobEventRow,
  JobFilter,
  JobLog,
  JobStatus,
  JobTimes,
  JobType,
  JobWord,
  Json,
  ListedJob,
  LogLevel,
  NewJob,
  PayloadOf,
  QueueStats,
  Replay,
  Schedule,
  Step,
  StepPlace,
  GuestSessionJob,
  TypeDetail,
  TypeLine,
  Wait,
  WaitRow,
  Webhook,
  WorkspaceLimits,
} from "./types.js";

/**
 * What a member of a workspace reads and calls, in the schema that was chosen at the install.
 *
 * @example
 * const supabase = createClient<Database<"minutehand"> & YourDatabase>(url, key);
 */
export type Database<Schema extends string = "minutehand"> = { [name in Schema]: Minutehand };

/** The columns a member may set when inserting into `jobs`. */
export type JobInsert = Pick<Job, "workspace_id" | "job_type"> &
  Partial<
    Pick<
      Job,
      | "user_id"
      | "session_id"
      | "queue"
      | "payload"
      | "priority"
      | "max_attempts"
      | "scheduled_for"
      | "deadline_at"
      | "idempotency_key"
      | "concurrency_key"
      | "tags"
    >
  > & { status?: "pending" };

/** The columns a member may change: cancelling, and while pending priority and schedule. */
export type JobUpdate = { status?: "cancelled"; priority?: number; scheduled_for?: string | null };

type ReadOnly<Row> = {
  Row: Row;
  Insert: Record<string, never>;
  Update: Record<string, never>;
  Relationships: [];
};
type View<Row> = { Row: { [column in keyof Row]: Row[column] | null }; Relationships: [] };
type Fn<Args, Returns> = { Args: Args; Returns: Returns };
type Id = { p_job_id: string };
type InWorkspace = { p_workspace_id: string };
/** An object whose members the function's own comment names. */
type Row = { [name: string]: Json | undefined };
type Rows = Row[];

export type Minutehand = {
  Tables: {
    jobs: { Row: Job; Insert: JobInsert; Update: JobUpdate; Relationships: [] };
    job_logs: ReadOnly<JobLog>;
    workspaces: ReadOnly<{ id: string; name: string; created_at: string }>;
    workspace_members: ReadOnly<{
      workspace_id: string;
      user_id: string;
      role: string;
      created_at: string;
    }>;
  };
  Views: {
    job_events: View<
      JobEventRow & { workspace_id: string; session_id: string | null; xid: string }
    >;
    job_states: View<
      Pick<Job, "id" | "workspace_id" | "job_type" | "status"> &
        Omit<JobTimes, "queue_ms"> & {
          state: JobWord;
          next_run_at: string | null;
          waiting_for: Wait | null;
          running_since: string | null;
          worker_id: string | null;
          queue_ms: number | null;
        }
    >;
    running_jobs: View<Job>;
  };
  Functions: {
    answer_job: Fn<Id & { p_answer: { answer: Json } }, Job>;
    cancel_job: Fn<Id, Job>;
    close_guest_session: Fn<{ p_session_id: string }, { closed: boolean }>;
    count_jobs: Fn<
      InWorkspace & { p_filter?: Pick<JobFilter, "job_type" | "queue" | "parent_id"> },
      {
        counts: { [status in JobStatus]: number };
        states: { [state: string]: number };
        at_least: JobStatus[];
      }
    >;
    dead_letters: Fn<InWorkspace, { groups: DeadLetterGroup[]; more: boolean }>;
    delete_schedule: Fn<InWorkspace & { p_name: string }, { deleted: string }>;
    delete_webhook: Fn<InWorkspace & { p_webhook_id: string }, { deleted: string }>;
    emit_event: Fn<
      InWorkspace & { p_name: string; p_payload?: { [name: string]: Json | undefined } },
      { first: boolean }
    >;
    edit_job: Fn<Id & { p_changes: { payload: Json } }, Job>;
    enqueue_job: Fn<
      InWorkspace & {
        p_job_type: JobType;
        p_payload?: PayloadOf<JobType>;
        p_options?: EnqueueOptions;
      },
      Enqueued
    >;
    enqueue_jobs: Fn<
      InWorkspace & { p_jobs: NewJob[]; p_return?: "jobs" | "ids" },
      EnqueuedBatch | { ids: string[]; created: boolean[]; wake: boolean; warning: string | null }
    >;
    event_feed: Fn<InWorkspace & { p_cursor?: string | null; p_limit?: number }, FeedPage>;
    explain_job: Fn<Id, Explanation>;
    follow_topic: Fn<
      { p_topic: string; p_follower_id: string; p_version?: number },
      { receivers: number; again_seconds: number; check_seconds: number; quiet: boolean }
    >;
    get_job: Fn<Id, DescribedJob>;
    get_job_type: Fn<{ p_job_type: string; p_workspace_id?: string | null }, TypeDetail>;
    job_attempts: Fn<Id, { attempts: Attempt[]; more: boolean }>;
    job_artefacts: Fn<
      Id & { p_key?: string | null; p_name?: string | null },
      { artefacts: Artefact[] }
    >;
    job_replays: Fn<Id, Replay[]>;
    job_steps: Fn<
      Id & { p_after?: StepPlace | null },
      { steps: Step[]; next: StepPlace | null; waiting_for: WaitRow | null }
    >;
    job_trace: Fn<Id, { now: string; more: boolean; jobs: Rows }>;
    list_jobs: Fn<
      { p_filter?: JobFilter; p_cursor?: Cursor | null; p_limit?: number },
      { jobs: ListedJob[]; next: Cursor | null }
    >;
    list_job_types: Fn<
      { p_workspace_id?: string | null; p_internal?: boolean },
      { now: string; types: TypeLine[] }
    >;
    open_stream: Fn<Record<string, never>, { opened: boolean }>;
    own_workspace: Fn<Partial<InWorkspace>, { workspace_id: string }>;
    people: Fn<{ p_ids: string[] }, { [id: string]: string }>;
    cancel_jobs: Fn<
      InWorkspace & { p_filter: Omit<JobFilter, "workspace_id">; p_limit?: number },
      { count: number; more: boolean }
    >;
    retry_jobs: Fn<
      InWorkspace & { p_filter: Omit<JobFilter, "workspace_id">; p_limit?: number },
      { count: number; more: boolean }
    >;
    queue_series: Fn<
      { p_workspace_id?: string | null; p_minutes?: number; p_internal?: boolean },
      Row & { points: Rows }
    >;
    search_logs: Fn<
      {
        p_workspace_id?: string | null;
        p_filter?: {
          search?: string;
          level?: LogLevel;
          job_type?: JobType;
          job_id?: string;
          since?: string;
          until?: string;
        };
        p_before?: number | null;
        p_limit?: number;
      },
      { lines: FoundLine[]; next: number | null }
    >;
    sort_jobs: Fn<
      {
        p_filter?: JobFilter;
        p_by?:
          | "created_at"
          | "started_at"
          | "finished_at"
          | "next_run_at"
          | "queue_ms"
          | "run_ms"
          | "total_ms"
          | "priority"
          | "attempts";
        p_descending?: boolean;
        p_limit?: number;
        p_offset?: number;
      },
      { jobs: ListedJob[]; more: boolean; cut: boolean }
    >;
    list_schedules: Fn<{ p_workspace_id?: string | null }, { schedules: Schedule[] }>;
    list_webhooks: Fn<{ p_workspace_id?: string | null }, { webhooks: Webhook[] }>;
    list_workspaces: Fn<
      Record<string, never>,
      {
        workspaces: {
          id: string;
          name: string;
          created_at: string;
          members: number;
          managers: number;
        }[];
      }
    >;
    next_runs: Fn<
      InWorkspace & {
        p_schedule: { name: string } | { cron: string; timezone?: string };
        p_count?: number;
      },
      { cron: string; timezone: string; runs: string[] }
    >;
    open_guest_session: Fn<
      InWorkspace & { p_options?: { ttl_seconds?: number; user_id?: string } },
      {
        session_id: string;
        workspace_id: string;
        user_id: string | null;
        opened_at: string;
        expires_at: string;
      }
    >;
    pause_jobs: Fn<
      {
        p_request: {
          kind: "job_type" | "queue" | "workspace" | "workspace_type";
          name: string;
          workspace_id?: string;
          paused?: boolean;
          reason?: string;
        };
      },
      { kind: string; name: string; paused: boolean }
    >;
    put_schedule: Fn<
      InWorkspace & {
        p_schedule: Pick<Schedule, "name"> &
          Partial<
            Pick<
              Schedule,
              "cron" | "timezone" | "job_type" | "payload" | "options" | "missed" | "enabled"
            >
          >;
      },
      Schedule
    >;
    put_webhook: Fn<
      InWorkspace & {
        p_webhook: Partial<
          Pick<Webhook, "id" | "url" | "description" | "event_types" | "job_types" | "enabled">
        > & {
          sealed_secret?: string;
        };
      },
      Webhook
    >;
    queue_stats: Fn<{ p_workspace_id?: string; p_minutes?: number }, QueueStats>;
    replay_job: Fn<
      Id & {
        p_request?: {
          from_step?: string;
          payload?: Json;
          results?: Record<string, Json>;
          idempotency_key?: string;
        };
      },
      { job: Job; created: boolean; wake: boolean; warning: string | null }
    >;
    retry_job: Fn<Id & { p_payload?: Json }, Job>;
    session_feed: Fn<
      { p_session_id: string; p_cursor?: string | null; p_limit?: number },
      FeedPage
    >;
    set_workspace_limits: Fn<
      InWorkspace & { p_limits: Partial<Omit<WorkspaceLimits, "workspace_id">> },
      WorkspaceLimits
    >;
    guest_session_events: Fn<
      { p_session_id: string; p_job_id: string; p_after?: number; p_limit?: number },
      { events: JobEventRow[] }
    >;
    guest_session_feed: Fn<
      { p_session_id: string; p_cursor?: string | null; p_limit?: number },
      FeedPage
    >;
    guest_session_jobs: Fn<
      { p_session_id: string },
      { session_id: string; expires_at: string; jobs: GuestSessionJob[] }
    >;
    workspace_limits: Fn<
      InWorkspace,
      WorkspaceLimits & { running: number; default_max_pending: number }
    >;
  };
  Enums: Record<string, never>;
  CompositeTypes: Record<string, never>;
};
