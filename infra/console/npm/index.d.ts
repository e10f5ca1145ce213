// The package's types; its modules are the console's own files, unchanged.

/** Any JSON value. */
export type Json = string | number | boolean | null | Json[] | { [name: string]: Json | undefined };

/**
 * Your job types, each as `{ payload: …; result: …; output: … }`. With one in it, `enqueue` takes no other.
 */
export interface JobTypes {}

/**
 * The streams of a job type, as its `output` declares them; else any, each a text or a list.
 * One that has said nothing yet is not there.
 */
export type OutputOf<T extends JobType> = T extends keyof JobTypes
  ? JobTypes[T] extends { output: infer O }
    ? Partial<O>
    : AnyOutput
  : AnyOutput;
type AnyOutput = { [stream: string]: any };

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
  /** It is cancelled if it has not started by then. */
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
  /** Where its time went. */
  times?: { queue_ms: number | null; run_ms: number; runs: number };
  /** What its attempts cost in foreign services, as far as processors counted it. */
  cost_usd: number | null;
  timeout_seconds: number | null;
  unique_key: string | null;
  running_since?: string | null;
  worker_id?: string | null;
  lost_attempts: number;
  /** Attempts that do not count, because their process died while it also ran other jobs. */
  deaths?: number;
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
  /** How far its streams are; `output` of a watch has what they said. */
  streams?: { [stream: string]: { attempt: number; next: number } } | null;
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
  queue?: string | undefined;
  priority?: number | undefined;
  scheduled_for?: string | undefined;
  delay_seconds?: number | undefined;
  max_attempts?: number | undefined;
  timeout_seconds?: number | undefined;
  /** Repeating the call with the same key gives the first job. */
  idempotency_key?: string | undefined;
  concurrency_key?: string | undefined;
  session_id?: string | undefined;
  parent_id?: string | undefined;
  deadline_at?: string | undefined;
  /** It is cancelled if it has not started so long after its creation or `scheduled_for`. */
  start_by_seconds?: number | undefined;
  unique?:
    | {
        key: string;
        until?: "leased" | "finished" | undefined;
        on_conflict?: "skip" | "replace" | "raise" | undefined;
      }
    | undefined;
  /** With `unique`: a later job within this time takes its place. */
  debounce_seconds?: number | undefined;
  schema_version?: number | undefined;
  tags?: string[] | undefined;
  traceparent?: string | undefined;
};

/** A job to be added with others. */
export type NewJob<T extends JobType = JobType> = {
  [K in T]: { job_type: K; payload: PayloadOf<K> } & EnqueueOptions;
}[T];

/** What is used of a supabase-js client: any version of it, with any types of its own. */
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

/** A call that failed: refused by the queue, or not answered. */
export declare class QueueError extends Error {
  /** The stable word of a refusal, e.g. `payload_invalid`; else the Data API's own code. */
  code: string;
  /** The HTTP status; 0 without an answer, as for one that is empty or cut short. */
  status: number;
  details: string | null;
  readonly reachable: boolean;
  /** The caller may not have it. */
  readonly isRefusal: boolean;
  /** No server answered, as opposed to one that failed. */
  readonly isAway: boolean;
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

/** Add 1 to 1,000 jobs, all or none, in their order. */
export declare function enqueueMany<T extends JobType>(
  client: Client,
  jobs: readonly NewJob<T>[],
  options: { workspace_id: string } & In,
): Promise<{ jobs: { job: Job<T>; created: boolean }[]; wake: boolean }>;

/** Emit the event that jobs wait for by its name; the first of a name counts. */
export declare function emitEvent(
  client: Client,
  name: string,
  payload: { [name: string]: Json | undefined } | undefined,
  options: { workspace_id: string } & In,
): Promise<{ first: boolean }>;

type In = { schema?: string | undefined };
/** Cancel a job and its live children; its row. */
export declare function cancel(client: Client, jobId: string, options?: In): Promise<Job>;
/** Run a failed or cancelled job again, or a delayed one now; its row. */
export declare function retry(
  client: Client,
  jobId: string,
  options?: In & { payload?: { [name: string]: Json | undefined } | undefined },
): Promise<Job>;
/** Run a job again as a new one, from its start or a step that finished. */
export declare function replay(
  client: Client,
  jobId: string,
  options?: In & {
    from_step?: string | undefined;
    payload?: { [name: string]: Json | undefined } | undefined;
    idempotency_key?: string | undefined;
  },
): Promise<{ job: Job; created: boolean; wake: boolean }>;
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
  silence?: number | undefined;
  firstSilence?: number | undefined;
  readyTimeout?: number | undefined;
  reorder?: number | undefined;
  joinTimeout?: number | undefined;
};

/** What is known of a watched job now. */
export type WatchedJob<T extends JobType = JobType> = {
  job: Job<T> | null;
  status: JobStatus | null;
  progress: Progress | null;
  /** With its `result`, as each end comes with the whole row. */
  isCompleted: boolean;
  isFailed: boolean;
  isCancelled: boolean;
  /** Someone cancelled it, and it still runs. */
  isCancelling: boolean;
  isEnded: boolean;
  /** It has not been read yet. */
  isLoading: boolean;
  /** The job's own error. */
  error: string | null;
  /** What its streams have said by now: of each its text, or its items. */
  output: OutputOf<T>;
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
  /** The guest session whose id is the key to the job; its row has no payload then. */
  session_id?: string | undefined;
  /** Also hand out and keep past events, at most `historyLimit`, 2,000. */
  history?: boolean | undefined;
  historyLimit?: number | undefined;
  /** Hand out events after this `seq`. */
  after?: number | undefined;
  /** Each event once, in order. */
  onEvent?: ((event: JobEvent) => void) | undefined;
  /** Once for each end, also for one before it was watched. */
  onEnd?: ((job: Job<T>) => void) | undefined;
  onChange?: ((state: WatchedJob<T>) => void) | undefined;
  /** What its streams have said by now, at most once a frame; the last of it before `onEnd`. */
  onOutput?: ((output: OutputOf<T>) => void) | undefined;
};
export declare function watchJob<T extends JobType = JobType>(
  client: Client,
  jobId: string,
  options?: JobOptions<T>,
): JobWatch<T>;

/** A piece of what a job says in a stream. */
export type Piece = {
  stream: string;
  /**
   * How often the stream was begun. Drop what was said under another: the first piece of each is
   * `from` 0.
   */
  attempt: number;
  /** In characters (code points) or items: where it begins, and where the next one does. */
  from: number;
  next: number;
  text?: string;
  items?: Json[];
};
/**
 * What a job says in a stream, from the beginning or an offset, then live: each character and each
 * item once and in order. It ends with the job, and returns it; throws when the job is gone.
 */
export declare function outputOf<T extends JobType = JobType>(
  client: Client,
  jobId: string,
  name: string,
  options?: In & {
    /** Of a guest session that shows the job. */
    session_id?: string | undefined;
    /** `next` of the last piece that is known. */
    from?: number | undefined;
    /** Its `attempt`; without it `from` is of the present one. */
    attempt?: number | undefined;
    signal?: AbortSignal | undefined;
  },
): AsyncGenerator<Piece, Job<T>, undefined>;

/** Wait until all have ended; their rows, in the order of the ids. Rejects where one is gone. */
export declare function waitAll<T extends JobType = JobType>(
  client: Client,
  jobIds: Iterable<string>,
  options?: In & { signal?: AbortSignal | undefined },
): Promise<Job<T>[]>;

/** As `list_jobs` filters, of a workspace or a session; every condition that is given must hold. */
export type JobFilter = {
  workspace_id?: string | undefined;
  session_id?: string | undefined;
  /** Enqueued by the signed-in user. */
  mine?: boolean | undefined;
  user_id?: string | undefined;
  status?: JobStatus | readonly JobStatus[] | undefined;
  state?: JobState | readonly JobState[] | undefined;
  job_type?: JobType | undefined;
  queue?: string | undefined;
  tag?: string | undefined;
  parent_id?: string | undefined;
  /** Fields and values of the payload. */
  payload?: { [name: string]: Json | undefined } | undefined;
  created_after?: string | undefined;
  /** Part of the error's message. */
  error?: string | undefined;
  error_fingerprint?: string | undefined;
  search?: string | undefined;
  ids?: readonly string[] | undefined;
};
/** A job as a list has it: without payload and result. */
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
      /** 1 to 200; 20 by default. */
      limit?: number | undefined;
      onChange?: ((state: WatchedJobs) => void) | undefined;
      onEvent?: ((event: JobEvent) => void) | undefined;
      /** Each job of the filter that ends from here on, once, also if it has left the list. */
      onEnd?: ((job: ListedJob) => void) | undefined;
    },
): Watch<WatchedJobs>;

/** Learn when to read what a page shows of a workspace or a session. */
export type TopicOptions = Timing &
  In & {
    /** At the start, and whenever something may have changed; repeated when it throws. */
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
