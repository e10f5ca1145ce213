// The package's types; its modules are the console's own files, unchanged.

/** Any JSON value. */
export type Json = string | number | boolean | null | Json[] | { [name: string]: Json | undefined };

/**
 * Your job types, each as `{ payload: …; result: … }`. With one in it, `enqueue` takes no other.
 */
export interface JobTypes {}

/** The name of a job type: one of yours, or any string while none is declared. */
export type JobType = [keyof JobTypes] extends [never] ? string : Extract<keyof JobTypes, string>;
export type PayloadOf<T extends JobType> = T extends keyof JobTypes
  ? JobTypes[T] extends { payload: infer P }
    ? P
    : never
  : { [name: string]: Json | undefined };
export type ResultOf<T extends JobType> = T extends keyof JobTypes
  ? JobTypes[T] extends { result: infer R }
    ? R
    : unknown
  : unknown;

export type JobStatus = "pending" | "processing" | "waiting" | "completed" | "failed" | "cancelled";
export type JobState =
  | "queued"
  | "scheduled"
  | "retrying"
  | "running"
  | "suspended"
  | "completed"
  | "failed"
  | "cancelled";
/** How current a watch is. */
export type Freshness = "live" | "catching-up" | "polling" | "offline";

/** How far a job is; the last report wins. */
export type Progress = {
  /** 0 to 100. */
  percentage?: number | null;
  stage?: string | null;
  message?: string | null;
};

/** What a suspended job waits for. */
export type Wait = {
  kind: "sleep" | "ask" | "event" | "children";
  name: string | null;
  question?: string | null;
  options?: Json[] | null;
  /** When it continues without an answer. */
  until?: string | null;
};

/** A job as `get_job` and the lists give it; instants are ISO 8601, UTC. */
export type Job<T extends JobType = JobType> = {
  id: string;
  workspace_id: string;
  user_id: string | null;
  session_id: string | null;
  queue: string;
  job_type: T;
  /** Only of one job: lists have a `glimpse`. */
  payload: PayloadOf<T>;
  status: JobStatus;
  /** What people look for; re-read a moment after a change of status. */
  state?: JobState;
  priority: number;
  progress: Progress | null;
  result: ResultOf<T> | null;
  error_message: string | null;
  error_data: { type: string; reason?: string; data?: Json } | null;
  attempts: number;
  max_attempts: number;
  next_retry_at: string | null;
  scheduled_for: string | null;
  started_at: string | null;
  /** The end, however it ended. */
  finished_at: string | null;
  completed_at: string | null;
  created_at: string;
  updated_at: string;
  deadline_at: string | null;
  idempotency_key: string | null;
  concurrency_key: string | null;
  tags: string[];
  parent_id: string | null;
  cancel_requested_at: string | null;
  waiting_for?: Wait | null;
  next_run_at?: string | null;
  /** The last error in one line. */
  error?: string | null;
  /** Where its time went. */
  times?: { queue_ms: number | null; run_ms: number; runs: number };
  /** What its attempts cost in foreign services, as far as processors counted it. */
  cost_usd: number | null;
  timeout_seconds: number | null;
  unique_key: string | null;
  running_since?: string | null;
  worker_id?: string | null;
  lost_attempts: number;
  schema_version: number;
  traceparent: string | null;
  /** The job that it runs again, and from which step. */
  replay_of: string | null;
  replay_from: string | null;
  /** Raised by each retry of an ended job; the token of its latest lease. */
  generation: number;
  fence: number;
  /** The `seq` of its last event. */
  last_seq: number;
};

/** A line of a job's history. */
export type JobEvent = {
  job_id: string;
  seq: number;
  /** `job.created`, `job.leased`, `job.progress`, `job.log`, `job.waiting`, `job.completed`, … */
  type: string;
  data: { [name: string]: Json | undefined };
  at: string;
};

/** What `enqueue_job` takes beside type and payload; what is left out the job type decides. */
export type EnqueueOptions = {
  queue?: string;
  priority?: number;
  scheduled_for?: string;
  delay_seconds?: number;
  max_attempts?: number;
  timeout_seconds?: number;
  /** Repeating the call with the same key gives the first job. */
  idempotency_key?: string;
  concurrency_key?: string;
  session_id?: string;
  parent_id?: string;
  deadline_at?: string;
  unique?: {
    key: string;
    until?: "leased" | "finished";
    on_conflict?: "skip" | "replace" | "raise";
  };
  /** For how long the key gives the first job. */
  /** A later one within this time takes its place. */
  debounce_seconds?: number;
  schema_version?: number;
  tags?: string[];
  traceparent?: string;
};

/** What is used of a supabase-js client: any version of it, with any types of its own. */
export type Client = {
  schema(name: any): any;
  channel(topic: string, options: any): any;
  removeChannel(channel: any): Promise<unknown>;
  realtime: {
    setAuth(token?: string | null): Promise<void>;
    isConnected(): boolean;
    connect(): void;
    disconnect(): unknown;
  };
};

/** A call that failed: refused by the queue, or not answered. */
export declare class QueueError extends Error {
  /** The stable word of a refusal, e.g. `payload_invalid`; else the Data API's own code. */
  code: string;
  /** The HTTP status; 0 without an answer. */
  status: number;
  details: string | null;
  readonly reachable: boolean;
}
/** What `ended` rejects with when the job is deleted, or was never visible. */
export declare class JobGone extends Error {
  readonly code: "job_not_found";
}
export declare const ENDED: ReadonlySet<string>;
export declare const FRESHNESS: readonly Freshness[];

/** Say once in which schema a client's jobs are, `minutehand` by default. */
export declare function setSchema(client: Client, schema: string): void;

/** Add one job; with an `idempotency_key`, or find the one that key made. */
export declare function enqueue<T extends JobType>(
  client: Client,
  jobType: T,
  payload: PayloadOf<T>,
  options: EnqueueOptions & { workspace_id: string; schema?: string },
): Promise<{ job: Job<T>; created: boolean; wake: boolean }>;

type In = { schema?: string | undefined };
/** Cancel a job and its live children; its row. */
export declare function cancel(client: Client, jobId: string, options?: In): Promise<Job>;
/** Run a failed or cancelled job again, or a delayed one now; its row. */
export declare function retry(
  client: Client,
  jobId: string,
  options?: In & { payload?: { [name: string]: Json | undefined } | undefined },
): Promise<Job>;
/** Answer the question a job waits with, of several by its `name`; its row. */
export declare function answer(
  client: Client,
  jobId: string,
  value: Json,
  options?: In & { name?: string | undefined },
): Promise<Job>;

/** How patient a watch is, in ms. */
export type Timing = {
  pollingInterval?: number | undefined;
  silence?: number;
  firstSilence?: number;
  readyTimeout?: number;
  reorder?: number;
  joinTimeout?: number;
};

/** What is known of a watched job now. */
export type WatchedJob<T extends JobType = JobType> = {
  job: Job<T> | null;
  status: JobStatus | null;
  progress: Progress | null;
  isCompleted: boolean;
  isFailed: boolean;
  isCancelled: boolean;
  isEnded: boolean;
  /** It has not been read yet. */
  isLoading: boolean;
  /** The job's own error. */
  error: string | null;
  freshness: Freshness;
  /** It was deleted, or is another's. */
  missing: boolean;
  /** Only with `history`. */
  events: JobEvent[];
  /** Why reading it fails. */
  problem: QueueError | null;
};

export interface Watch<S> {
  readonly state: S;
  readonly freshness: Freshness;
  readonly closed: boolean;
  /** At most once a frame; returns what ends it. */
  subscribe(listener: () => void): () => void;
  refresh(): Promise<void>;
  close(): void;
}
export interface JobWatch<T extends JobType = JobType> extends Watch<WatchedJob<T>> {
  /** Resolves on any end with the job; rejects when it is gone or unwatched. */
  readonly ended: Promise<Job<T>>;
}
export type JobOptions<T extends JobType = JobType> = Timing & {
  schema?: string | undefined;
  /** Also hand out and keep past events, at most `historyLimit`, 2,000. */
  history?: boolean | undefined;
  historyLimit?: number;
  /** Hand out events after this `seq`. */
  after?: number;
  /** Each event once, in order. */
  onEvent?: (event: JobEvent) => void;
  /** Once for each end, also for one before it was watched. */
  onEnd?: (job: Job<T>) => void;
  onChange?: (state: WatchedJob<T>) => void;
};
export declare function watchJob<T extends JobType = JobType>(
  client: Client,
  jobId: string,
  options?: JobOptions<T>,
): JobWatch<T>;

/** As `list_jobs` filters, of a workspace or a session. */
export type JobFilter = {
  workspace_id?: string | undefined;
  session_id?: string | undefined;
  [name: string]: Json | undefined;
};
export type WatchedJobs = {
  /** Newest first, without payload and result. */
  jobs: (Omit<Job, "payload" | "result"> & { glimpse?: string | null })[];
  isLoading: boolean;
  freshness: Freshness;
  problem: QueueError | null;
};
export declare function watchJobs(
  client: Client,
  filter: JobFilter,
  options?: Timing & {
    schema?: string | undefined;
    /** 1 to 200; 20 by default. */
    limit?: number | undefined;
    onChange?: (state: WatchedJobs) => void;
  },
): Watch<WatchedJobs>;

/** Learn when to read what a page shows of a workspace or a session. */
export type TopicOptions = Timing &
  In & {
    /** At the start, and whenever something may have changed; repeated when it throws. */
    onRead?: () => Promise<unknown> | unknown;
    onEvent?: (event: JobEvent) => void;
    onChange?: (state: WatchedJobs) => void;
  };
export declare function watchWorkspace(
  client: Client,
  workspaceId: string,
  options?: TopicOptions,
): Watch<WatchedJobs>;
export declare function watchSession(
  client: Client,
  sessionId: string,
  options?: TopicOptions,
): Watch<WatchedJobs>;
