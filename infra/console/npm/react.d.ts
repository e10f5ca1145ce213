import type { DetailedHTMLProps, HTMLAttributes } from "react";
import type {
  Client,
  EnqueueOptions,
  Job,
  JobEvent,
  JobFilter,
  JobType,
  Json,
  ListedJob,
  PayloadOf,
  WatchedJob,
  WatchedJobs,
} from "./index.js";
import type { MinutehandJob, MinutehandJobProps } from "./tags.js";

export type UseJobOptions<T extends JobType = JobType> = {
  /**
   * Id of the guest session that grants access to the job. The row of the job then has no payload.
   */
  session_id?: string | undefined;
  pollingInterval?: number | undefined;
  /** See `Timing`. */
  silence?: number | undefined;
  history?: boolean | undefined;
  onEvent?: ((event: JobEvent) => void) | undefined;
  /** Called once when the job ends, also if the job ended before it was followed. */
  onEnd?: ((job: Job<T>) => void) | undefined;
};

/**
 * Job that is followed, and its actions. If an action fails, its promise rejects with a
 * `QueueError`.
 */
export type UsedJob<T extends JobType = JobType> = WatchedJob<T> & {
  refresh(): Promise<void> | undefined;
  cancel(): Promise<Job>;
  retry(payload?: PayloadOf<T>): Promise<Job>;
  answer(value: Json): Promise<Job>;
};

type Where = { workspace_id?: string | undefined; schema?: string | undefined };

/** Create the hooks for a client. Call this function once, outside of components. */
export declare function makeHooks(
  client: Client | (() => Client),
  defaults?: Where,
): {
  /** Follow one job. If the id is missing, no job is followed. */
  useJob<T extends JobType = JobType>(
    jobId: string | null | undefined,
    options?: UseJobOptions<T>,
  ): UsedJob<T>;
  useJobStatus<T extends JobType = JobType>(
    options: UseJobOptions<T> & { jobId: string | null | undefined },
  ): UsedJob<T>;
  /** `enqueue` adds a job and follows it. If the call fails, it returns null and sets `problem`. */
  useEnqueue<T extends JobType>(
    jobType: T,
    options?: UseJobOptions<T>,
  ): UsedJob<T> & {
    enqueue(payload: PayloadOf<T>, options?: EnqueueOptions & Where): Promise<Job<T> | null>;
  };
  useJobs(
    filter?: JobFilter,
    options?: {
      limit?: number | undefined;
      /** Called once for each job that ends while it is watched. */
      onEnd?: ((job: ListedJob) => void) | undefined;
    },
  ): WatchedJobs & { refresh(): Promise<void> | undefined };
};

// The type is not named `Attributes`, because that name is React's own type within the module
// "react".
type JobElementProps = DetailedHTMLProps<HTMLAttributes<MinutehandJob>, MinutehandJob> &
  MinutehandJobProps;

declare module "react" {
  namespace JSX {
    interface IntrinsicElements {
      "minutehand-job": JobElementProps;
    }
  }
}
