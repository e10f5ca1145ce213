import type { DetailedHTMLProps, HTMLAttributes } from "react";
import type {
  Client,
  JobEvent,
  JobFilter,
  JobType,
  Job,
  WatchedJob,
  WatchedJobs,
} from "./index.js";
import type { MinutehandJob } from "./tags.js";

/** Make `useJob` and `useJobs` for a client, once, outside of components. */
export declare function makeHooks(
  client: Client | (() => Client),
  defaults?: { workspace_id?: string; schema?: string },
): {
  /** Nothing is followed without an id. */
  useJob<T extends JobType = JobType>(
    jobId: string | null | undefined,
    options?: { pollingInterval?: number; history?: boolean; onEvent?: (event: JobEvent) => void },
  ): WatchedJob<T> & {
    refresh(): Promise<void> | undefined;
    cancel(): Promise<Job<T>> | undefined;
  };
  useJobs(filter?: JobFilter, options?: { limit?: number }): WatchedJobs;
};

type Attributes = DetailedHTMLProps<HTMLAttributes<MinutehandJob>, MinutehandJob> &
  Partial<Omit<MinutehandJob, keyof HTMLElement>>;

declare module "react" {
  namespace JSX {
    interface IntrinsicElements {
      "minutehand-job": Attributes & {
        "job-id"?: string | undefined;
        schema?: string;
        label?: string;
        onjobchange?: (event: HTMLElementEventMap["jobchange"]) => void;
        onjobend?: (event: HTMLElementEventMap["jobend"]) => void;
      };
    }
  }
}
