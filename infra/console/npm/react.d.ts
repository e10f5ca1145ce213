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
  /** The guest session whose id is the key to the job; its row has no payload then. */
  session_id?: string | undefined;
  pollingInterval?: number | undefined;
  history?: boolean | undefined;
  onEvent?: ((event: JobEvent) => void) | undefined;
  /** Once for each end, also for one before it was followed. */
  onEnd?: ((job: Job<T>) => void) | undefined;
};

/** A followed job and what can be done to it; the promises reject with a `QueueError`. */
export type UsedJob<T extends JobType = JobType> = WatchedJob<T> & {
  refresh(): Promise<void> | undefined;
  cancel(): Promise<Job>;
  retry(payload?: PayloadOf<T>): Promise<Job>;
  answer(value: Json): Promise<Job>;
};

type Where = { workspace_id?: string | undefined; schema?: string | undefined };

/** Make the hooks for a client, once, outside of components. */
export declare function makeHooks(
  client: Client | (() => Client),
  defaults?: Where,
): {
  /** Nothing is followed without an id. */
  useJob<T extends JobType = JobType>(
    jobId: string | null | undefined,
    options?: UseJobOptions<T>,
  ): UsedJob<T>;
  useJobStatus<T extends JobType = JobType>(
    options: UseJobOptions<T> & { jobId: string | null | undefined },
  ): UsedJob<T>;
  /** `enqueue` adds a job, which is followed; null and a `problem` where it is refused. */
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
      /** Each that ends from here on, once. */
      onEnd?: ((job: ListedJob) => void) | undefined;
    },
  ): WatchedJobs & { refresh(): Promise<void> | undefined };
};

// not named `Attributes`: within the module "react" that would be React's own
type JobElementProps = DetailedHTMLProps<HTMLAttributes<MinutehandJob>, MinutehandJob> &
  MinutehandJobProps;

declare module "react" {
  namespace JSX {
    interface IntrinsicElements {
      "minutehand-job": JobElementProps;
    }
  }
}
