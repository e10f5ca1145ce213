import type { DetailedHTMLProps, HTMLAttributes } from "react";
import type { Client, JobHooks } from "./jobs/types.js";
import type { MinutehandJob } from "./tags.js";

/**
 * Make `useJob`, `useJobs` and `useEnqueue` for a client, once, outside of components.
 *
 * @example
 * export const { useJob, useJobs, useEnqueue } = makeHooks(supabase, { workspace_id });
 */
export declare function makeHooks(
  client: Client | (() => Client),
  defaults?: { workspace_id?: string; schema?: string },
): JobHooks;

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
