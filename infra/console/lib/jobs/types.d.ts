// What travels between the database and its clients: jobs, events, logs, waits, in one place.
// Tables and functions by name are database.d.ts; this file has no counterpart at run time.

/** Any JSON value. */
export type Json = string | number | boolean | null | Json[] | { [name: string]: Json | undefined };

/**
 * Your job types, each as `{ payload: …; result: … }`; empty until `minutehand types` fills it.
 *
 * With at least one name in it, `enqueue` takes no other, and payloads and results are typed.
 */
export interface JobTypes {}

/** The name of a job type: one of yours, or any string while none is declared. */
export type JobType = [keyof JobTypes] extends [never] ? string : Extract<keyof JobTypes, string>;

/** What a job of type `T` takes. */
export type PayloadOf<T extends JobType> = T extends keyof JobTypes
  ? JobTypes[T] extends { payload: infer P }
    ? P
    : never
  : { [name: string]: Json | undefined };

/** What a job of type `T` returns; `unknown` where its processor does not say. */
export type ResultOf<T extends JobType> = T extends keyof JobTypes
  ? JobTypes[T] extends { result: infer R }
    ? R
    : unknown
  : unknown;

export type JobStatus = "pending" | "processing" | "waiting" | "completed" | "failed" | "cancelled";

/** How current a watch is. */
export type Freshness = "live" | "catching-up" | "polling" | "offline";

/** How far a job is; the last report wins. */
export type Progress = {
  /** 0 to 100. */
  percentage?: number | null;
  stage?: string | null;
  message?: string | null;
};

/** Why an attempt failed, beside its message for people. */
export type JobError = {
  /** Groups failures: the exception's name, or a word of the engine's. */
  type: string;
  /** The engine's own reason, e.g. `parent_ended`. */
  reason?: string;
  /** What the processor added. */
  data?: Json;
};

/** What a waiting job waits for. */
export type Wait = {
  kind: "sleep" | "ask" | "event" | "children" | "after";
  /** The step that receives the value. */
  name: string | null;
  question?: string | null;
  options?: string[] | null;
  /** When it ends by itself, ISO 8601. */
  until?: string | null;
  event?: string | null;
};

/** Where a page of `job_steps` ends. */
export type StepPlace = { name: string; nth: number };

/** A wait as `job_steps` reads it. */
export type WaitRow = Omit<Wait, "until"> & {
  job_ids: string[] | null;
  timeout_at: string | null;
  default: Json;
  since: string;
};

export type BackoffOptions = { first_seconds?: number; cap_seconds?: number; factor?: number };

/** What people look for, derived of a job's status, retry and schedule. */
export type JobWord =
  | "queued"
  | "scheduled"
  | "retrying"
  | "running"
  | "suspended"
  | "completed"
  | "failed"
  | "cancelled";

/** Where a job's time went, in milliseconds. */
export type JobTimes = {
  /** From being due to the first start; null before either. */
  queue_ms: number | null;
  /** The processor itself in all attempts, the running one until now. */
  run_ms: number;
  /** From each lease to its end: run_ms, and what the worker and the database needed around it. */
  held_ms: number;
  /** How often it was leased. */
  runs: number;
  /** What is neither: schedule, backoff, sleeps, questions, children. */
  wait_ms: number;
  total_ms: number;
};

/** What `get_job` derives of a job. */
export type DescribedJob<T extends JobType = JobType> = Job<T> & JobFacts;

/** A job of `list_jobs` and `sort_jobs`; `get_job` has it whole. */
export type ListedJob<T extends JobType = JobType> = Omit<
  DescribedJob<T>,
  "payload" | "result" | "error_data"
> & {
  /** The first simple values of its payload, in a line; null without any. */
  glimpse: string | null;
};

/** What is derived of each job. */
export type JobFacts = {
  state: JobWord;
  /** In the past for a job that is due; null where it is unknown or never. */
  next_run_at: string | null;
  waiting_for: Wait | null;
  running_since: string | null;
  worker_id: string | null;
  /** The last error in one line, the exception's type before its message. */
  error: string | null;
  times: JobTimes;
};

/** A row of `jobs`, as `jobs` and every function give it; instants are ISO 8601, UTC. */
export type Job<T extends JobType = JobType> = {
  id: string;
  workspace_id: string;
  user_id: string | null;
  session_id: string | null;
  queue: string;
  job_type: T;
  payload: PayloadOf<T>;
  schema_version: number;
  status: JobStatus;
  /** A smaller number runs first. */
  priority: number;
  progress: Progress;
  /** Null unless completed. */
  result: ResultOf<T> | null;
  error_message: string | null;
  error_data: JobError | null;
  error_fingerprint: string | null;
  attempts: number;
  max_attempts: number;
  next_retry_at: string | null;
  scheduled_for: string | null;
  /** The first start, kept over retries and waits. */
  started_at: string | null;
  /** The end, however it ended. */
  finished_at: string | null;
  /** The end of a completed job; null for one that failed or was cancelled. */
  completed_at: string | null;
  /** From being ready to the first start; null before. */
  queue_ms: number | null;
  /** Run time of its ended attempts together. */
  run_ms: number;
  /** From lease to end of its ended attempts together. */
  held_ms: number;
  /** The status it ended with; null while live. */
  outcome: "completed" | "failed" | "cancelled" | null;
  created_at: string;
  updated_at: string;
  deadline_at: string | null;
  timeout_seconds: number | null;
  backoff: BackoffOptions | null;
  idempotency_key: string | null;
  concurrency_key: string | null;
  /** Words to find it by. */
  tags: string[];
  unique_key: string | null;
  parent_id: string | null;
  /** The job it is a replay of, and the step from which; null for its start. */
  replay_of: string | null;
  replay_from: string | null;
  cancel_requested_at: string | null;
  traceparent: string | null;
  cost_usd: number | null;
  fence: number;
  /** The `seq` of its last event. */
  last_seq: number;
  generation: number;
  snoozes: number;
  lost_attempts: number;
};

/** A file that a job made, until `expires_at`; `content`, in base64, where it was asked for by name. */
export type Artefact = {
  name: string;
  media_type: string;
  size_bytes: number;
  created_at: string;
  expires_at: string;
  url: string;
  content?: string;
};

/** A job of a chain of replays. */
export type Replay = Pick<
  Job,
  "id" | "replay_of" | "replay_from" | "status" | "created_at" | "finished_at"
> & { state: JobWord };

/** A job as a watch shows it. */
export type WatchedJob<T extends JobType = JobType> = Job<T> & {
  /** While it waits, as far as the watch was told; null before. */
  waiting_for?: Wait | null;
};

/** What is known of a watched job now. */
export type JobState<T extends JobType = JobType> = {
  job: WatchedJob<T> | null;
  status: JobStatus | null;
  progress: Progress | null;
  isCompleted: boolean;
  isFailed: boolean;
  isEnded: boolean;
  /** The job's own error. */
  error: string | null;
  freshness: Freshness;
  /** It was deleted, or is another's. */
  missing: boolean;
  /** Only with `history`. */
  events: JobEvent[];
  /** Why reading it fails. */
  problem: Error | null;
};

/** A job as `guest_session_jobs` shows it: neither its payload nor who made it. */
export type GuestSessionJob<T extends JobType = JobType> = Pick<
  Job<T>,
  | "id"
  | "session_id"
  | "job_type"
  | "status"
  | "progress"
  | "result"
  | "error_message"
  | "attempts"
  | "max_attempts"
  | "next_retry_at"
  | "scheduled_for"
  | "started_at"
  | "finished_at"
  | "completed_at"
  | "cancel_requested_at"
  | "created_at"
  | "updated_at"
  | "last_seq"
>;

/** A job of a session: of a visit only what `guest_session_jobs` shows, else the whole row. */
export type SessionJob<T extends JobType = JobType> = GuestSessionJob<T> & Partial<WatchedJob<T>>;

export type LogLevel = "debug" | "info" | "warning" | "error";

/** A row of `job_logs`. */
export type JobLog = {
  /** Orders the lines of a job. */
  id: number;
  job_id: string;
  workspace_id: string;
  attempt: number;
  log_level: LogLevel;
  message: string;
  metadata: { [name: string]: Json | undefined };
  created_at: string;
};

/** What every state change carries. */
export type StateData = { status: JobStatus; attempts: number };

/** A log line as it travels in an event, shortened to 2,000 characters. */
export type LoggedLine = {
  level: LogLevel;
  message: string;
  at: string;
  attempt: number;
  metadata: { [name: string]: Json | undefined };
};

/** The data of each type of event. */
export type EventData = {
  "job.created": StateData & { job_type: string };
  "job.replaced": StateData & { scheduled_for: string | null };
  "job.leased": StateData & { worker_id?: string };
  "job.progress": { progress: Progress; attempts: number };
  /** Empty for guests: log lines are not theirs to read. */
  "job.log": { log?: LoggedLine };
  "job.waiting": StateData & { wait: Wait };
  "job.resumed": StateData;
  "job.snoozed": StateData & { next_retry_at?: string };
  "job.retried": StateData & { error_message?: string; next_retry_at?: string };
  "job.released": StateData & { next_retry_at?: string };
  "job.reclaimed": StateData & { worker_id?: string };
  "job.redriven": StateData;
  /** Its payload was changed: the first 200 characters of each field as JSON; null in a guest session. */
  "job.edited": StateData & {
    changed: Record<string, { before: string | null; after: string | null }> | null;
  };
  "job.cancel_requested": StateData;
  "job.completed": StateData;
  "job.failed": StateData & { error_message?: string };
  "job.cancelled": StateData;
};

export type EventType = keyof EventData;

type EventOf<At extends string> = {
  [T in EventType]: { job_id: string; seq: number; type: T; data: EventData[T] } & {
    [name in At]: string;
  };
}[EventType];

/** A line of a job's history as a watch hands it out; `type` decides what `data` holds. */
export type JobEvent = EventOf<"at">;

/** The same as functions give it. */
export type JobEventRow = EventOf<"created_at">;

/** What `enqueue_job` takes beside type and payload; what is left out the job type decides. */
export type EnqueueOptions = {
  queue?: string;
  priority?: number;
  /** ISO 8601. */
  scheduled_for?: string;
  delay_seconds?: number;
  max_attempts?: number;
  /** Repeating the call with the same key gives the first job. */
  idempotency_key?: string;
  idempotency_ttl_seconds?: number;
  concurrency_key?: string;
  session_id?: string;
  parent_id?: string;
  deadline_at?: string;
  timeout_seconds?: number;
  backoff?: BackoffOptions;
  /** Ids of jobs that must end first. */
  unique?: {
    key: string;
    until?: "leased" | "finished";
    on_conflict?: "skip" | "replace" | "raise";
  };
  debounce_seconds?: number;
  traceparent?: string;
  schema_version?: number;
  /** At most 20 words of 1 to 100 characters to find the job by. */
  tags?: string[];
};

/** A job of `enqueue_jobs`. */
export type NewJob<T extends JobType = JobType> = EnqueueOptions & {
  job_type: T;
  payload?: PayloadOf<T>;
};

/** A job, and whether the call made it or found it by its key. */
export type Enqueued<T extends JobType = JobType> = {
  job: Job<T>;
  created: boolean;
  /** Asks the caller to invoke a worker, where no API does; without, the next minute's runs it. */
  wake: boolean;
  /** A sentence when no worker that runs serves the type, else null. */
  warning: string | null;
};

export type EnqueuedBatch = {
  jobs: { job: Job; created: boolean }[];
  wake: boolean;
  warning: string | null;
};

/** Events after a cursor; read again at once while there is `more`. */
export type FeedPage = {
  events: JobEventRow[];
  /** The transaction of each event. */
  places: string[];
  cursor: string;
  more: boolean;
  /** The cursor was another database's: events may be missing, read what you show again. */
  reset?: boolean;
};

/** Which jobs `list_jobs` gives. */
export type JobFilter = {
  workspace_id?: string;
  status?: JobStatus[];
  job_type?: JobType;
  queue?: string;
  session_id?: string;
  parent_id?: string;
  created_after?: string;
  created_before?: string;
  state?: JobWord[];
  tag?: string;
  /** Fields and their values. */
  payload?: { [field: string]: Json };
  finished_after?: string;
  finished_before?: string;
  min_run_ms?: number;
  max_run_ms?: number;
  /** Part of an error's message. */
  error?: string;
  error_type?: string;
  error_fingerprint?: string;
  worker_id?: string;
  version?: string;
  search?: string;
  ids?: string[];
  id_prefix?: string;
};

/** How a job type's jobs went in the last 24 hours. */
export type TypeDay = {
  enqueued?: number;
  completed?: number;
  failed?: number;
  cancelled?: number;
  retried?: number;
  lost?: number;
  /** 0 to 1; null when none has ended. */
  success_rate?: number | null;
  run?: { p50_ms: number | null; p95_ms: number | null; p99_ms: number | null };
  queue?: { p50_ms: number | null; p95_ms: number | null; p99_ms: number | null };
};

/** A job type on one line of `list_job_types`. */
export type TypeLine = {
  job_type: string;
  queue: string;
  description: string | null;
  /** `module:function` of its processor. */
  source: string | null;
  version: number;
  internal: boolean;
  paused_at: string | null;
  pause_reason: string | null;
  registered_at: string;
  /** False when workers run but none of them serves it. */
  served: boolean;
  last_seen_at: string | null;
  workers: number;
  code_versions: string[];
  schedule_count: number;
  day: TypeDay;
};

/** A job type as `get_job_type` gives it. */
export type TypeDetail = TypeLine & {
  now: string;
  payload_schema: Json;
  events: "full" | "minimal";
  tagged_by: string[];
  limits: { [name: string]: Json };
  serving: {
    worker_id: string;
    version: string | null;
    started_at: string;
    seen_at: string;
    queues: string[] | null;
  }[];
  schedules: {
    name: string;
    cron: string;
    timezone: string;
    enabled: boolean;
    next_at: string | null;
    last_slot_at: string | null;
    problem: string | null;
    source: string | null;
  }[];
};

/** A line of `search_logs`. */
export type FoundLine = {
  id: number;
  job_id: string;
  job_type: string;
  attempt: number;
  log_level: LogLevel;
  message: string;
  metadata: Json;
  created_at: string;
};

export type Cursor = { created_at: string; id: string };

/** Why a job is where it is, in a sentence and in data. */
export type Explanation = {
  job_id: string;
  status: JobStatus;
  /** A stable word, e.g. `backing_off` or `no_worker`. */
  reason: string;
  sentence: string;
  data: { [name: string]: Json | undefined };
  estimated_start_at: string | null;
};

export type Attempt = {
  attempt: number;
  fence: number;
  worker_id: string | null;
  leased_at: string;
  /** Null while it runs, and then `lease_expires_at` is there. */
  ended_at: string | null;
  outcome: string | null;
  error_message?: string | null;
  error_data?: JobError | null;
  lease_expires_at?: string;
  /** Where its log is and which code ran. */
  origin: {
    version?: string;
    request_id?: string;
    log_group?: string;
    log_stream?: string;
    region?: string;
    commit?: string;
    /** Where the commit's files can be read: a path is appended. */
    source?: string;
  } | null;
  has_traceback: boolean;
  /** Absent where the caller may not see it. */
  traceback?: Traceback | null;
  /** Against the failed attempt before, [] when nothing differs; null for any other. */
  differs:
    | {
        what: "error" | "message" | "place" | "version" | "commit" | "worker_id";
        before: Json;
        now: Json;
      }[]
    | null;
};

export type Frame = {
  file: string;
  line: number;
  function: string;
  code: string;
  own: boolean;
  /** How often it repeats, of a recursion. */
  times?: number;
};

/** The frames of an error, the innermost of the user's own code first, without values. */
export type Traceback = {
  frames: Frame[];
  /** What it was raised from, and what that was raised from. */
  causes?: { type: string; message: string; frames: Frame[] }[];
  /** Frames that were too many. */
  left_out?: number;
};

export type Step = {
  name: string;
  /** `step`, `graph` (the result has what each stage comes after), or the wait that it was. */
  kind: string;
  result: unknown;
  created_at: string;
  /** From its start to its end; null where the start is not known. */
  took_ms: number | null;
};

export type Schedule = {
  id: string;
  workspace_id: string;
  name: string;
  cron: string;
  timezone: string;
  job_type: JobType;
  payload: { [name: string]: Json | undefined };
  options: EnqueueOptions;
  missed: "skip" | "once" | "all";
  enabled: boolean;
  next_at: string | null;
  last_slot_at: string | null;
  last_job_id: string | null;
  problem: string | null;
  created_by: string | null;
  created_at: string;
  updated_at: string;
};

export type Webhook = {
  id: string;
  workspace_id: string;
  url: string;
  description: string | null;
  /** Null means all. */
  event_types: EventType[] | null;
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
  /** In the one answer that shows it. */
  secret?: string;
};

export type WorkspaceLimits = {
  workspace_id: string;
  weight: number;
  max_running: number | null;
  own_max_running: number | null;
  max_pending: number | null;
  /** Rows the workspace may make, by the limit's name; `used` is counted up to `max`. */
  quotas?: Record<string, { max: number; used: number }>;
  /** What one person may do, in whichever workspace. */
  per_caller?: Record<string, number>;
};

export type Percentiles = { p50_ms: number | null; p95_ms: number | null; p99_ms: number | null };

/** Counts of a job type in `queue_stats`. */
export type TypeStats = {
  completed: number;
  failed: number;
  cancelled: number;
  retried: number;
  lost: number;
  enqueued: number;
  cost_usd: number | null;
  queue: Percentiles;
  run: Percentiles;
};

export type Pause = {
  kind: "job_type" | "queue" | "workspace" | "workspace_type";
  name: string;
  workspace_id: string | null;
  job_type: string | null;
  paused_at: string;
  paused_by: string | null;
  reason: string | null;
};

/** Answers of `queue_stats`; what only an operator sees is null for members. */
/** Due jobs by what keeps them from starting, and one verdict on them. */
export type Backlog = Record<
  "ready" | "stalled" | "unserved" | "paused" | "at_limit" | "blocked",
  { jobs: number; oldest_seconds: number | null; job_types: string[]; types: number }
> & {
  jobs: number;
  at_least: boolean;
  verdict: "pass" | "warn" | "fail";
  detail: string;
  fix: string | null;
};

export type QueueStats = {
  now: string;
  since: string;
  live: Record<"queued" | "scheduled" | "retrying" | "running" | "suspended", number>;
  backlog: Backlog;
  oldest_due_at: string | null;
  types: { [jobType: string]: TypeStats };
  throughput: { minute: string; completed: number; failed: number; enqueued: number }[];
  workers: { [name: string]: Json | undefined }[] | null;
  limits: { [name: string]: Json | undefined }[] | null;
  pauses: Pause[];
};

export type DeadLetterGroup = {
  job_type: string;
  error_fingerprint: string | null;
  jobs: number;
  first_at: string;
  last_at: string;
  latest_id: string;
  error_message: string | null;
};

/** What is used of a supabase-js client: any version of it, with any types of its own. */
export type Client = {
  schema(name: any): any;
  channel(
    topic: string,
    options: { config: { private: boolean; broadcast: { replication_ready: boolean } } },
  ): any;
  removeChannel(channel: any): Promise<unknown>;
  realtime: {
    setAuth(token?: string | null): Promise<void>;
    isConnected(): boolean;
    connect(): void;
    disconnect(): unknown;
  };
};

/** What `makeUseJobStatus` takes: `React`, `preact/hooks`, or what keeps their contract. */
export type Hooks = {
  useState<S>(initial: S): [S, (next: S) => void];
  useEffect(effect: () => void | (() => void), inputs?: readonly unknown[]): void;
  useRef<V>(initial: V): { current: V };
};

/** What a component follows; `watchJob` explains each. Nothing is followed without `jobId`. */
export type JobStatusOptions = {
  jobId?: string | null | undefined;
  pollingInterval?: number;
  history?: boolean;
  onEvent?: (event: JobEvent) => void;
  cancel?: (jobId: string) => Promise<Job>;
};

/** A job that a component follows. */
export type FollowedJob<T extends JobType = JobType> = JobState<T> & {
  refresh: () => Promise<void> | undefined;
  cancel: () => Promise<Job> | undefined;
};

/** Follow one job from a component; when `jobId` changes, that job at once. */
export type UseJobStatus = <T extends JobType>(options: JobStatusOptions) => FollowedJob<T>;

/** What `minutehand/react` makes; `workspace_id` is the one given there unless named here. */
export type JobHooks = {
  /** Follow one job; none while the id is missing. */
  useJob<T extends JobType>(
    jobId: string | null | undefined,
    options?: Omit<JobStatusOptions, "jobId">,
  ): FollowedJob<T>;
  /** Follow the newest jobs with a tag, 20 unless `limit` says more, up to 200; without one all. */
  useJobs(
    tag?: string | null,
    options?: JobFilter & { limit?: number },
  ): import("./watch-jobs.js").JobsState;
  /** Enqueue on demand and follow the last job made so; a refusal gives null and is in `problem`. */
  useEnqueue<T extends JobType>(
    jobType: T,
    options?: EnqueueOptions & { workspace_id?: string },
  ): FollowedJob<T> & {
    isEnqueuing: boolean;
    enqueue: (
      payload: PayloadOf<T>,
      options?: EnqueueOptions & { workspace_id?: string },
    ) => Promise<Job<T> | null>;
  };
};
