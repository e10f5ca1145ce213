import type { DetailedHTMLProps, HTMLAttributes } from "react";
import type {
  Client,
  EnqueueOptions,
  Job,
  JobFilter,
  JobOptions,
  JobType,
  Json,
  ListedJob,
  PayloadOf,
  WatchedJob,
  WatchedJobs,
} from "./index.js";
import type { MinutehandJob, MinutehandJobProps } from "./tags.js";

export type UseJobOptions<T extends JobType = JobType> = Pick<
  JobOptions<T>,
  "session_id" | "pollingInterval" | "silence" | "history" | "onEvent" | "onEnd"
>;

/**
 * State of a followed job, and functions that change the job. If a change fails, the promise that
 * the function returned rejects with a `QueueError`.
 */
export type UsedJob<T extends JobType = JobType> = WatchedJob<T> & {
  refresh(): Promise<void> | undefined;
  cancel(): Promise<Job>;
  retry(payload?: PayloadOf<T>): Promise<Job>;
  answer(value: Json): Promise<Job>;
};

type Where = { workspace_id?: string | undefined; schema?: string | undefined };

/** Create the hooks for a supabase-js client. Call `makeHooks` once, outside of components. */
export declare function makeHooks(
  client: Client | (() => Client),
  defaults?: Where,
): {
  /** Follow one job. Without a `jobId`, `useJob` follows no job. */
  useJob<T extends JobType = JobType>(
    jobId: string | null | undefined,
    options?: UseJobOptions<T>,
  ): UsedJob<T>;
  useJobStatus<T extends JobType = JobType>(
    options: UseJobOptions<T> & { jobId: string | null | undefined },
  ): UsedJob<T>;
  /**
   * Return `enqueue`, which adds a job, and the state of this job. If the job cannot be added,
   * `enqueue` returns null and sets `problem`.
   */
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
      /**
       * Function that the hook calls once for each job that ends while the hook follows the job.
       */
      onEnd?: ((job: ListedJob) => void) | undefined;
    },
  ): WatchedJobs & { refresh(): Promise<void> | undefined };
};

// This type is not named `Attributes`, because in the module "react" the name `Attributes` is a
// type of React.
type JobElementProps = DetailedHTMLProps<HTMLAttributes<MinutehandJob>, MinutehandJob> &
  MinutehandJobProps;

declare module "react" {
  namespace JSX {
    interface IntrinsicElements {
      "minutehand-job": JobElementProps;
    }
  }
}
