import type { DetailedHTMLProps, HTMLAttributes } from "react";
import type { Client, JobHooks } from "./jobs/types.js";
import type { MinutehandJob, MinutehandJobs } from "./tags.js";

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

type Tag<E, Attributes> = DetailedHTMLProps<HTMLAttributes<E>, E> &
  Partial<Omit<E, keyof HTMLElement>> &
  Attributes & { [attribute: `text-${string}`]: string };
type Source = { url?: string; key?: string; schema?: string };

declare module "react" {
  namespace JSX {
    interface IntrinsicElements {
      "minutehand-job": Tag<
        MinutehandJob,
        Source & {
          "job-id"?: string | undefined;
          label?: string;
          compact?: boolean;
          onjobchange?: (event: HTMLElementEventMap["jobchange"]) => void;
          onjobend?: (event: HTMLElementEventMap["jobend"]) => void;
        }
      >;
      "minutehand-jobs": Tag<
        MinutehandJobs,
        Source & {
          "workspace-id"?: string | undefined;
          tag?: string;
          type?: string;
          limit?: number;
          onjobend?: (event: HTMLElementEventMap["jobend"]) => void;
        }
      >;
    }
  }
}
