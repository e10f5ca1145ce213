// Types of the package. The package contains files of the console, unchanged.

/** Any JSON value. */
export type Json = string | number | boolean | null | Json[] | { [name: string]: Json | undefined };

/**
 * Your job types, each as `{ payload: …; result: …; output: … }`. Once you declare one, `enqueue`
 * accepts only declared types.
 */
export interface JobTypes {}

/**
 * Streams of a job type, as declared in its `output`. A job type that is declared without `output`
 * has no streams. If you declare no types, a job may have any streams, each a text or a list. A
 * stream is absent if the job has not written to it.
 */
export type OutputOf<T extends JobType> = T extends keyof JobTypes
  ? JobTypes[T] extends { output: infer O }
    ? Partial<O>
    : { [stream: string]: undefined }
  : { [stream: string]: any };
/** Name of a stream of a job type. */
export type StreamOf<T extends JobType> = T extends keyof JobTypes
  ? JobTypes[T] extends { output: infer O }
    ? Extract<keyof O, string>
    : never
  : string;

/** Name of a job type. Any string is allowed until you declare a type. */
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
/** Freshness of a watch. */
export type Freshness = "live" | "catching-up" | "polling" | "offline";

/** Last reported progress of a job. */
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
  /** Time at which the job continues if no answer arrives. */
  until?: string | null;
};

/** A job as `get_job` and the functions for lists return it. All times are ISO 8601 in UTC. */
export type Job<T extends JobType = JobType> = {
  id: string;
  workspace_id: string;
  user_id: string | null;
  session_id: string | null;
  queue: string;
  job_type: T;
  /** Only present if one job was read. A job in a list has a `glimpse` instead. */
  payload: PayloadOf<T>;
  status: JobStatus;
  /** State to show. After a change of status, it is absent until the row is read again. */
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
  /** Time at which the job ended, with any status. */
  finished_at: string | null;
  completed_at: string | null;
  created_at: string;
  updated_at: string;
  deadline_at: string | null;
  /** The job is cancelled if it has not started at this time. */
  start_by_at: string | null;
  start_by_seconds: number | null;
  idempotency_key: string | null;
  concurrency_key: string | null;
  tags: string[];
  parent_id: string | null;
  cancel_requested_at: string | null;
  waiting_for?: Wait | null;
  next_run_at?: string | null;
  /** The last error in one line. */
  error?: string | null;
  /** Queue time and duration of the job. */
  times?: { queue_ms: number | null; run_ms: number; runs: number };
  /** Cost of external services, as reported by processors. */
  cost_usd: number | null;
  timeout_seconds: number | null;
  unique_key: string | null;
  running_since?: string | null;
  worker_id?: string | null;
  lost_attempts: number;
  /**
   * Number of attempts that do not count, because their process died while it also ran other jobs.
   */
  deaths?: number;
  schema_version: number;
  traceparent: string | null;
  /** Id of the job that this job replays, and the step from which it replays the job. */
  replay_of: string | null;
  replay_from: string | null;
  /** Number that each retry of an ended job increases. */
  generation: number;
  /** Number of the latest lease, which each lease increases. */
  fence: number;
  /** `seq` of the last event. */
  last_seq: number;
  /** End of each stream. The content of the streams is in `output` of a watch. */
  streams?: { [stream: string]: { attempt: number; next: number } } | null;
};

/** An event of a job's history. */
export type JobEvent = {
  job_id: string;
  seq: number;
  /** `job.created`, `job.leased`, `job.progress`, `job.log`, `job.waiting`, `job.completed`, … */
  type: string;
  data: { [name: string]: Json | undefined };
  at: string;
};

/** Options of `enqueue_job`. Options that are missing get the defaults of the job type. */
export type EnqueueOptions = {
  queue?: string | undefined;
  priority?: number | undefined;
  scheduled_for?: string | undefined;
  delay_seconds?: number | undefined;
  max_attempts?: number | undefined;
  timeout_seconds?: number | undefined;
  /** A repeated call with the same key returns the job of the first call. */
  idempotency_key?: string | undefined;
  concurrency_key?: string | undefined;
  session_id?: string | undefined;
  parent_id?: string | undefined;
  deadline_at?: string | undefined;
  /**
   * The job is cancelled if it has not started within this time after its creation or
   * `scheduled_for`.
   */
  start_by_seconds?: number | undefined;
  unique?:
    | {
        key: string;
        until?: "leased" | "finished" | undefined;
        on_conflict?: "skip" | "replace" | "raise" | undefined;
      }
    | undefined;
  /** With `unique`, a job that is enqueued within this time replaces the earlier job. */
  debounce_seconds?: number | undefined;
  schema_version?: number | undefined;
  tags?: string[] | undefined;
  traceparent?: string | undefined;
};

/** A job to enqueue with `enqueueMany`. */
export type NewJob<T extends JobType = JobType> = {
  [K in T]: { job_type: K; payload: PayloadOf<K> } & EnqueueOptions;
}[T];

/**
 * The parts of a supabase-js client that the package uses, for any version and any database types.
 */
export type Client = {
  schema(name: any): any;
  channel(topic: string, options: any): any;
  removeChannel(channel: any): Promise<unknown>;
  realtime: {
    setAuth(token?: string | null): any;
    isConnected(): boolean;
    connectionState(): any;
    connect(): void;
    disconnect(): unknown;
  };
};

/** A call failed, because the queue rejected it or no response arrived. */
export declare class QueueError extends Error {
  /**
   * Stable error code, for example `lease_lost`. `payload_invalid`. An error that the queue did not
   * raise has the Data API's code.
   */
  code: string;
  /** HTTP status, or 0 if no response or an incomplete response arrived. */
  status: number;
  details: string | null;
  /** Whether the server rejected the call, so that repeating it does not help. */
  readonly reachable: boolean;
  /** Whether the caller has no access. */
  readonly isRefusal: boolean;
  /** Whether no server responded. A server that responds with an error does not count. */
  readonly isAway: boolean;
}
/** The promise `ended` rejects with this error if the job is deleted or not visible. */
export declare class JobGone extends Error {
  readonly code: "job_not_found";
}
export declare const ENDED: ReadonlySet<string>;
export declare const FRESHNESS: readonly Freshness[];

/** Set the schema of a client's jobs. Default `minutehand`. */
export declare function setSchema(client: Client, schema: string): void;

/** Add one job. If a job with the same `idempotency_key` exists, return that job instead. */
export declare function enqueue<T extends JobType>(
  client: Client,
  jobType: T,
  payload: PayloadOf<T>,
  options: EnqueueOptions & { workspace_id: string; schema?: string | undefined },
): Promise<{ job: Job<T>; created: boolean; wake: boolean }>;

/** Add 1 to 1,000 jobs in their order. The call adds all of these jobs, or none. */
export declare function enqueueMany<T extends JobType>(
  client: Client,
  jobs: readonly NewJob<T>[],
  options: { workspace_id: string } & In,
): Promise<{ jobs: { job: Job<T>; created: boolean }[]; wake: boolean }>;

/**
 * Emit an event by name for the jobs that wait for it. Further events with the same name have no
 * effect.
 */
export declare function emitEvent(
  client: Client,
  name: string,
  payload: { [name: string]: Json | undefined } | undefined,
  options: { workspace_id: string } & In,
): Promise<{ first: boolean }>;

type In = { schema?: string | undefined };
/** Cancel a job and its live children. Returns its row. */
export declare function cancel(client: Client, jobId: string, options?: In): Promise<Job>;
/** Run a failed or cancelled job again, or a delayed job now. Returns its row. */
export declare function retry(
  client: Client,
  jobId: string,
  options?: In & { payload?: { [name: string]: Json | undefined } | undefined },
): Promise<Job>;
/** Run a job again as a new job, from its start or from a finished step. */
export declare function replay(
  client: Client,
  jobId: string,
  options?: In & {
    from_step?: string | undefined;
    payload?: { [name: string]: Json | undefined } | undefined;
    idempotency_key?: string | undefined;
  },
): Promise<{ job: Job; created: boolean; wake: boolean }>;
/**
 * Answer a job's question. If the job has several questions, `name` chooses one. Returns the job's
 * row.
 */
export declare function answer(
  client: Client,
  jobId: string,
  value: Json,
  options?: In & { name?: string | undefined },
): Promise<Job>;

/** Timing of a watch, in milliseconds. */
export type Timing = {
  /** Time between reads while Realtime is unavailable. */
  pollingInterval?: number | undefined;
  /**
   * Maximum time until a read checks that no message was missed. With `Infinity`, a read checks
   * only if the topic's position has changed. The server reports the position once a minute.
   */
  silence?: number | undefined;
  /** Minimum time until a read checks that no message was missed. */
  firstSilence?: number | undefined;
  /** Time after a join within which messages must arrive. */
  readyTimeout?: number | undefined;
  /** Time to wait for a missing event before the watch reads it. */
  reorder?: number | undefined;
  /** Time after which the first join of the topic counts as failed. */
  joinTimeout?: number | undefined;
};

/** Current state of a job that is watched. */
export type WatchedJob<T extends JobType = JobType> = {
  job: Job<T> | null;
  status: JobStatus | null;
  progress: Progress | null;
  /**
   * Becomes true at the same time as `result` appears, because the watch shows an end only with the
   * complete row.
   */
  isCompleted: boolean;
  isFailed: boolean;
  isCancelled: boolean;
  /** Someone has cancelled the job, and the job still runs. */
  isCancelling: boolean;
  isEnded: boolean;
  /** The watch has not read the job yet. */
  isLoading: boolean;
  /** Error message of the job. */
  error: string | null;
  /** Text or items of each stream. */
  output: OutputOf<T>;
  freshness: Freshness;
  /** The job was deleted, or is not visible to the caller. */
  missing: boolean;
  /** Events of the job. Only with `history`. */
  events: JobEvent[];
  /** Error of the last read, or null. */
  problem: QueueError | null;
};

export interface Watch<S> {
  readonly state: S;
  readonly freshness: Freshness;
  readonly closed: boolean;
  /**
   * Call `listener` after changes, at most once per frame. Returns a function that ends the calls.
   */
  subscribe(listener: () => void): () => void;
  refresh(): Promise<void>;
  close(): void;
}
export interface JobWatch<T extends JobType = JobType> extends Watch<WatchedJob<T>> {
  /**
   * Resolves to the job's row after the job has ended. Rejects if the job was deleted or the watch
   * is closed.
   */
  readonly ended: Promise<Job<T>>;
}
export type JobOptions<T extends JobType = JobType> = Timing & {
  schema?: string | undefined;
  /**
   * Id of the guest session that grants access to the job. The row of the job then has no payload.
   */
  session_id?: string | undefined;
  /** Also deliver and keep past events, at most `historyLimit` events (default 2,000). */
  history?: boolean | undefined;
  historyLimit?: number | undefined;
  /** Deliver events after this `seq`. */
  after?: number | undefined;
  /** Called for each event once, in order. */
  onEvent?: ((event: JobEvent) => void) | undefined;
  /** Called once when the job ends, also if the job ended before the watch started. */
  onEnd?: ((job: Job<T>) => void) | undefined;
  onChange?: ((state: WatchedJob<T>) => void) | undefined;
  /**
   * Called with all output so far, at most once per frame, and with the complete output before
   * `onEnd`.
   */
  onOutput?: ((output: OutputOf<T>) => void) | undefined;
};
export declare function watchJob<T extends JobType = JobType>(
  client: Client,
  jobId: string,
  options?: JobOptions<T>,
): JobWatch<T>;

/** A piece of a job's stream. */
export type Piece = {
  stream: string;
  /**
   * Number of the attempt that wrote the piece. The first piece of each attempt has `from` 0. When
   * such a piece arrives, discard the pieces of earlier attempts.
   */
  attempt: number;
  /** Offset of this piece, in characters (code points) or items. */
  from: number;
  /** Offset of the next piece. */
  next: number;
  text?: string;
  items?: Json[];
};
/**
 * Yield the pieces of a job's stream from the beginning or from an offset, and then live. Each
 * character and item is yielded once and in order. The generator ends with the job and returns its
 * row. It throws if the job was deleted.
 */
export declare function outputOf<T extends JobType = JobType>(
  client: Client,
  jobId: string,
  name: StreamOf<T>,
  options?: In & {
    /** Id of the guest session that grants access to the job. */
    session_id?: string | undefined;
    /** Offset `next` of the last piece that the caller has. */
    from?: number | undefined;
    /** Number `attempt` of this piece. Default: the current attempt. */
    attempt?: number | undefined;
    signal?: AbortSignal | undefined;
  },
): AsyncGenerator<Piece, Job<T>, undefined>;

/**
 * Wait until all jobs have ended. Returns their rows in the order of the ids. Rejects if one of the
 * jobs was deleted.
 */
export declare function waitAll<T extends JobType = JobType>(
  client: Client,
  jobIds: Iterable<string>,
  options?: In & { signal?: AbortSignal | undefined },
): Promise<Job<T>[]>;

/** Filter of `list_jobs` for a workspace or a session. A job must meet all given conditions. */
export type JobFilter = {
  workspace_id?: string | undefined;
  session_id?: string | undefined;
  /** Only jobs that the signed-in user enqueued. */
  mine?: boolean | undefined;
  user_id?: string | undefined;
  status?: JobStatus | readonly JobStatus[] | undefined;
  state?: JobState | readonly JobState[] | undefined;
  job_type?: JobType | undefined;
  queue?: string | undefined;
  tag?: string | undefined;
  parent_id?: string | undefined;
  /** Names and values of fields in the payload. */
  payload?: { [name: string]: Json | undefined } | undefined;
  created_after?: string | undefined;
  /** Part of the text of the error message. */
  error?: string | undefined;
  error_fingerprint?: string | undefined;
  /** False omits the jobs of the platform itself, such as webhook deliveries. */
  internal?: boolean | undefined;
  search?: string | undefined;
  ids?: readonly string[] | undefined;
};
/** A job in a list, which has no payload and no result. */
export type ListedJob = Omit<Job, "payload" | "result" | "streams"> & { glimpse?: string | null };
export type WatchedJobs = {
  /** Newest first. */
  jobs: ListedJob[];
  isLoading: boolean;
  freshness: Freshness;
  problem: QueueError | null;
};
export declare function watchJobs(
  client: Client,
  filter: JobFilter,
  options?: Timing &
    In & {
      /** 1 to 200. Default 20. */
      limit?: number | undefined;
      onChange?: ((state: WatchedJobs) => void) | undefined;
      onEvent?: ((event: JobEvent) => void) | undefined;
      /** Called once for each job that ends while it is watched, even if it has left the list. */
      onEnd?: ((job: ListedJob) => void) | undefined;
    },
): Watch<WatchedJobs>;

/** Options of a watch that reports when a page must read a workspace or session again. */
export type TopicOptions = Timing &
  In & {
    /**
     * Called at the start, and again whenever the subject may have changed. If it throws, it is
     * called again.
     */
    onRead?: (() => Promise<unknown> | unknown) | undefined;
    onEvent?: ((event: JobEvent) => void) | undefined;
    onChange?: ((state: WatchedJobs) => void) | undefined;
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
