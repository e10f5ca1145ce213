// Types of the npm package `minutehand`. The code of the package is a copy of files of the console.

/** Any JSON value. */
export type Json = string | number | boolean | null | Json[] | JsonObject;
type JsonObject = { [name: string]: Json | undefined };
/** The same fields, each of which may be missing or undefined. */
type Optional<T> = { [K in keyof T]?: T[K] | undefined };

/**
 * Your job types, each as `{ payload: …; result: …; output: … }`. If you declare at least one job
 * type, `enqueue` accepts only declared job types.
 */
export interface JobTypes {}

/**
 * Streams of a job type, as declared in the field `output` of the job type. A job type that is
 * declared without `output` has no streams. If you declare no job types, a job may have streams of
 * any names, each a text or a list. A stream is missing as long as the job has not written to the
 * stream.
 */
export type OutputOf<T extends JobType> = Partial<
  Declared<T, "output", { [stream: string]: undefined }, { [stream: string]: any }>
>;
/** Name of a stream of a job type. */
export type StreamOf<T extends JobType> = T extends keyof JobTypes
  ? JobTypes[T] extends { output: infer O }
    ? Extract<keyof O, string>
    : never
  : string;

/** Name of a job type. Any string is allowed until you declare a job type. */
export type JobType = [keyof JobTypes] extends [never] ? string : Extract<keyof JobTypes, string>;
export type PayloadOf<T extends JobType> = Declared<T, "payload", never, JsonObject>;
export type ResultOf<T extends JobType> = Declared<T, "result", unknown, unknown>;
/**
 * Field of a job type as declared in `JobTypes`, `Missing` if the declaration lacks the field, or
 * `Open` if the job type is not declared.
 */
type Declared<T extends JobType, Field extends string, Missing, Open> = T extends keyof JobTypes
  ? JobTypes[T] extends { [F in Field]: infer Value }
    ? Value
    : Missing
  : Open;

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
/** How fresh the data of a watch is. */
export type Freshness = "live" | "catching-up" | "polling" | "offline";

/** Last progress that a job has reported. */
export type Progress = {
  /** Progress in percent, from 0 to 100. */
  percentage?: number | null;
  stage?: string | null;
  message?: string | null;
};

/** The answer, event, time or child jobs for which a suspended job waits. */
export type Wait = {
  kind: "sleep" | "ask" | "event" | "children";
  name: string | null;
  question?: string | null;
  options?: Json[] | null;
  /** Time at which the job continues if no answer arrives. */
  until?: string | null;
};

/**
 * A job in the form that the SQL functions `get_job` and `list_jobs` return. All times of a job are
 * ISO 8601 in UTC.
 */
export type Job<T extends JobType = JobType> = {
  id: string;
  workspace_id: string;
  user_id: string | null;
  session_id: string | null;
  queue: string;
  job_type: T;
  /**
   * Payload of the job, which is present only if a single job was read. A job in a list has only a
   * short `glimpse` of it.
   */
  payload: PayloadOf<T>;
  glimpse?: string | null;
  status: JobStatus;
  /**
   * State of the job for display. After a change of `status`, `state` is missing until the watch
   * has read the job's row again.
   */
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
  /** Time at which the job completed, failed or was cancelled. */
  finished_at: string | null;
  completed_at: string | null;
  created_at: string;
  updated_at: string;
  deadline_at: string | null;
  /**
   * Time until which the job must start. If the job has not started by then, the database cancels
   * the job.
   */
  start_by_at: string | null;
  start_by_seconds: number | null;
  idempotency_key: string | null;
  concurrency_key: string | null;
  tags: string[];
  parent_id: string | null;
  cancel_requested_at: string | null;
  waiting_for?: Wait | null;
  next_run_at?: string | null;
  /** The last error of the job, in one line. */
  error?: string | null;
  /** Time in the queue and total duration of the job's runs. */
  times?: { queue_ms: number | null; run_ms: number; runs: number };
  /** Cost of external services in US dollars, as reported by the job's processor. */
  cost_usd: number | null;
  timeout_seconds: number | null;
  unique_key: string | null;
  running_since?: string | null;
  worker_id?: string | null;
  lost_attempts: number;
  /**
   * Number of attempts that do not count, because the worker's process ended unexpectedly while it
   * ran several jobs.
   */
  deaths?: number;
  schema_version: number;
  traceparent: string | null;
  /**
   * Id of the job of which this job is a copy. `replay_from` is the step from which the copy
   * starts.
   */
  replay_of: string | null;
  replay_from: string | null;
  /** Number that increases by one each time when someone retries the job after its end. */
  generation: number;
  /** Number of the latest lease of the job. Each new lease of the job increases this number. */
  fence: number;
  /** Number `seq` of the last event of the job. */
  last_seq: number;
  /**
   * End of each of the job's streams. The field `output` of a watch contains the streams' content.
   */
  streams?: { [stream: string]: { attempt: number; next: number } } | null;
  /** Name of the schedule of which this job is the latest run. */
  schedule?: string | null;
};

/** An event of a job's history. */
export type JobEvent = {
  job_id: string;
  seq: number;
  /** `job.created`, `job.leased`, `job.progress`, `job.log`, `job.waiting`, `job.completed`, … */
  type: string;
  data: JsonObject;
  at: string;
};

/**
 * Options of a new job. The database replaces missing options by the defaults of the job type.
 */
export type EnqueueOptions = Optional<{
  queue: string;
  priority: number;
  scheduled_for: string;
  delay_seconds: number;
  max_attempts: number;
  timeout_seconds: number;
  /**
   * Key that makes calls idempotent. A repeated call with the same key returns the job of the first
   * call.
   */
  idempotency_key: string;
  concurrency_key: string;
  session_id: string;
  parent_id: string;
  deadline_at: string;
  /**
   * Seconds within which the job must start after its creation or after `scheduled_for`. If the job
   * has not started by then, the database cancels the job.
   */
  start_by_seconds: number;
  unique: {
    key: string;
    until?: "leased" | "finished" | undefined;
    on_conflict?: "skip" | "replace" | "raise" | undefined;
  };
  /**
   * Seconds for debouncing. A new job with the same `unique` key within this time replaces the
   * earlier job.
   */
  debounce_seconds: number;
  schema_version: number;
  tags: string[];
  traceparent: string;
}>;

/** A job in the list of `enqueueMany`. */
export type NewJob<T extends JobType = JobType> = {
  [K in T]: { job_type: K; payload: PayloadOf<K> } & EnqueueOptions;
}[T];

/**
 * The part of a supabase-js client that this package uses. The type `Client` fits any version of
 * supabase-js and any database types.
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

/** Error of a call of a queue function that was rejected or got no response. */
export declare class QueueError extends Error {
  /**
   * Stable error code, for example `lease_lost` or `payload_invalid`. For an error that did not
   * come from the queue's functions, `code` is the Data API's error code.
   */
  code: string;
  /** HTTP status, or 0 if no response or an incomplete response arrived. */
  status: number;
  details: string | null;
  /** Is true if the server responded and rejected the call, so that a repetition would fail too. */
  readonly reachable: boolean;
  /** Is true if the caller may not access the job or the workspace. */
  readonly isRefusal: boolean;
  /** Is true if no server responded. `isAway` is false if a server responded with an error. */
  readonly isAway: boolean;
}
/**
 * Error with which the promise `ended` of a watch rejects if the job was deleted or the caller may
 * not see the job.
 */
export declare class JobGone extends Error {
  readonly code: "job_not_found";
}
export declare const ENDED: ReadonlySet<string>;
export declare const FRESHNESS: readonly Freshness[];

/** Set the database schema that the calls of a client use. Default `minutehand`. */
export declare function setSchema(client: Client, schema: string): void;

/** Add one job. If a job with the same `idempotency_key` exists, return the existing job. */
export declare function enqueue<T extends JobType>(
  client: Client,
  jobType: T,
  payload: PayloadOf<T>,
  options: EnqueueOptions & { workspace_id: string } & In,
): Promise<{ job: Job<T>; created: boolean; wake: boolean }>;

/**
 * Add 1 to 1,000 jobs in the given order. `enqueueMany` adds either all of the jobs or none of
 * them.
 */
export declare function enqueueMany<T extends JobType>(
  client: Client,
  jobs: readonly NewJob<T>[],
  options: { workspace_id: string } & In,
): Promise<{ jobs: { job: Job<T>; created: boolean }[]; wake: boolean }>;

/**
 * Emit a named event, so that the jobs that wait for the event continue. A second event with the
 * same name has no effect.
 */
export declare function emitEvent(
  client: Client,
  name: string,
  payload: JsonObject | undefined,
  options: { workspace_id: string } & In,
): Promise<{ first: boolean }>;

type In = { schema?: string | undefined };
/** Cancel a job and its child jobs that have not ended. Returns the job's row after the change. */
export declare function cancel(client: Client, jobId: string, options?: In): Promise<Job>;
/**
 * Run a failed or cancelled job again, or run a delayed job now. Returns the job's row after the
 * change.
 */
export declare function retry(
  client: Client,
  jobId: string,
  options?: In & { payload?: JsonObject | undefined },
): Promise<Job>;
/** Create a copy of a job and run it, from the start or from a finished step. */
export declare function replay(
  client: Client,
  jobId: string,
  options?: In & Optional<{ from_step: string; payload: JsonObject; idempotency_key: string }>,
): Promise<{ job: Job; created: boolean; wake: boolean }>;
/**
 * Answer the question that a job asks, and return the job. With the question's `name`, a late click
 * does not answer the job's next question.
 */
export declare function answer(
  client: Client,
  jobId: string,
  value: Json,
  options?: In & { name?: string | undefined },
): Promise<Job>;

/** Times of a watch, in milliseconds. */
export type Timing = Optional<{
  /** Time between reads while Realtime is unavailable. */
  pollingInterval: number;
  /**
   * Maximum time until a read checks that no message was missed. With `Infinity`, the watch reads
   * only if the position of the Realtime topic has changed, which the server reports once a minute.
   */
  silence: number;
  /** Minimum time between reads that check that no message was missed. */
  firstSilence: number;
  /** Time after a join within which Realtime must report that messages arrive. */
  readyTimeout: number;
  /** Time to wait for a missing event before the watch reads the event from the database. */
  reorder: number;
  /** Time after which the first join of the topic counts as failed. */
  joinTimeout: number;
}>;

/** State that a watch of a job reports. */
export type WatchedJob<T extends JobType = JobType> = {
  job: Job<T> | null;
  status: JobStatus | null;
  progress: Progress | null;
  /**
   * Is true if the job has completed. `isCompleted` becomes true at the same time as `result`
   * appears, because the watch shows the end of a job only with the complete row.
   */
  isCompleted: boolean;
  isFailed: boolean;
  isCancelled: boolean;
  /** Is true if someone has cancelled the job and the job still runs. */
  isCancelling: boolean;
  isEnded: boolean;
  /** Is true until the watch has read the job for the first time. */
  isLoading: boolean;
  /** Error message of the job's last failure. */
  error: string | null;
  /** Content of each of the job's streams, as a text or a list of items. */
  output: OutputOf<T>;
  freshness: Freshness;
  /** Is true if the job was deleted, or if the caller may not see the job. */
  missing: boolean;
  /** Events of the job. `events` is empty unless the option `history` is true. */
  events: JobEvent[];
  /** Error of the last read, or null if the last read succeeded. */
  problem: QueueError | null;
};

export interface Watch<S> {
  readonly state: S;
  readonly freshness: Freshness;
  readonly closed: boolean;
  /**
   * Call `listener` after changes of the state, at most once per frame. Returns a function that
   * ends the subscription.
   */
  subscribe(listener: () => void): () => void;
  refresh(): Promise<void>;
  close(): void;
}
export interface JobWatch<T extends JobType = JobType> extends Watch<WatchedJob<T>> {
  /**
   * Promise of the job's row after the job has ended. The promise `ended` rejects if the job was
   * deleted or the watch was closed.
   */
  readonly ended: Promise<Job<T>>;
}
export type JobOptions<T extends JobType = JobType> = Timing &
  In &
  Optional<{
    /**
     * Id of the guest session that grants access to the job. If `session_id` is set, the job's row
     * contains no payload.
     */
    session_id: string;
    /**
     * If true, the watch also delivers past events. The watch keeps at most `historyLimit` events
     * (default 2,000).
     */
    history: boolean;
    historyLimit: number;
    /** Number `seq` of an event. The watch delivers only the events after this event. */
    after: number;
    /** Function that the watch calls once for each event of the job, in order. */
    onEvent: (event: JobEvent) => void;
    /**
     * Function that the watch calls once when the job ends, or at the start of the watch if the job
     * has already ended.
     */
    onEnd: (job: Job<T>) => void;
    onChange: (state: WatchedJob<T>) => void;
    /**
     * Function that the watch calls with all output so far, at most once per frame, and with the
     * complete output before `onEnd`.
     */
    onOutput: (output: OutputOf<T>) => void;
  }>;
export declare function watchJob<T extends JobType = JobType>(
  client: Client,
  jobId: string,
  options?: JobOptions<T>,
): JobWatch<T>;

/** Piece of the content of a job's stream. */
export type Piece = {
  stream: string;
  /**
   * Number of the attempt that wrote the piece. The first piece of each attempt has `from` 0. When
   * a piece with `from` 0 arrives, discard the pieces of earlier attempts of the job.
   */
  attempt: number;
  /** Offset in the stream at which the piece begins, in characters (code points) or items. */
  from: number;
  /** Offset in the stream at which the next piece begins. */
  next: number;
  text?: string;
  items?: Json[];
};
/**
 * Yield the pieces of a job's stream, from the stream's beginning or from an offset, and then each
 * new piece when it arrives. Each character and each item is yielded once and in order. The
 * generator ends when the job ends, and returns the job's row. The generator throws an error if the
 * job was deleted.
 */
export declare function outputOf<T extends JobType = JobType>(
  client: Client,
  jobId: string,
  name: StreamOf<T>,
  options?: In &
    Optional<{
      /** Id of the guest session that grants access to the job. */
      session_id: string;
      /** Offset `next` of the last piece that the caller already has. */
      from: number;
      /**
       * Number `attempt` of the last piece that the caller already has. By default, this is the
       * current attempt of the job.
       */
      attempt: number;
      signal: AbortSignal;
    }>,
): AsyncGenerator<Piece, Job<T>, undefined>;

/**
 * Wait until all jobs have ended. Returns the rows of the jobs in the order of the ids. The promise
 * rejects if one of the jobs was deleted.
 */
export declare function waitAll<T extends JobType = JobType>(
  client: Client,
  jobIds: Iterable<string>,
  options?: In & { signal?: AbortSignal | undefined },
): Promise<Job<T>[]>;

/**
 * Filter for the jobs of a workspace or a session. A job matches if it meets all given conditions.
 */
export type JobFilter = Optional<{
  workspace_id: string;
  session_id: string;
  /** If true, the list contains only jobs that the signed-in user has enqueued. */
  mine: boolean;
  user_id: string;
  status: JobStatus | readonly JobStatus[];
  state: JobState | readonly JobState[];
  job_type: JobType;
  queue: string;
  tag: string;
  parent_id: string;
  concurrency_key: string;
  /** A worker that has run the job. */
  worker_id: string;
  /** Fields that the payload of a job must contain, with these values. */
  payload: JsonObject;
  created_after: string;
  created_before: string;
  /** Text that the error message of a job must contain. */
  error: string;
  error_fingerprint: string;
  /**
   * If false, the list does not contain jobs that the queue itself creates, such as webhook
   * deliveries.
   */
  internal: boolean;
  search: string;
  ids: readonly string[];
}>;
/** A job in a list. A listed job has no payload and no result. */
export type ListedJob = Omit<Job, "payload" | "result" | "streams">;
export type WatchedJobs = {
  /** The jobs of the list, newest first. */
  jobs: ListedJob[];
  isLoading: boolean;
  freshness: Freshness;
  problem: QueueError | null;
};
export declare function watchJobs(
  client: Client,
  filter: JobFilter,
  options?: Timing &
    In &
    Optional<{
      /** Maximum number of jobs in the list, from 1 to 200. Default 20. */
      limit: number;
      onChange: (state: WatchedJobs) => void;
      onEvent: (event: JobEvent) => void;
      /**
       * Function that the watch calls once for each job that ends during the watch, even if the job
       * has left the list.
       */
      onEnd: (job: ListedJob) => void;
    }>,
): Watch<WatchedJobs>;

/**
 * Options of a watch that calls `onRead` when a page should read data of a workspace or session
 * again.
 */
export type TopicOptions = Timing &
  In &
  Optional<{
    /**
     * Function that the watch calls at the start, and each time when the workspace or session may
     * have changed. If `onRead` throws an error, the watch calls `onRead` again.
     */
    onRead: () => Promise<unknown> | unknown;
    onEvent: (event: JobEvent) => void;
    onChange: (state: WatchedJobs) => void;
  }>;
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
