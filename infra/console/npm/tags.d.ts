// Types of the custom element that `minutehand/element` defines.

import type { Client, Job, Json } from "./index.js";

export interface MinutehandJob extends HTMLElement {
  /** Your supabase-js client. */
  client: Client | null | undefined;
  /** Texts that replace the English texts, by name. */
  texts: Record<string, string>;
  /** The attribute `job-id`. */
  jobId: string | null;
  readonly job: Job | null;
  /** Read the job now. */
  refresh(): Promise<void>;
  /** Answer the job's question. */
  answer(answer: Json): Promise<void>;
}

export type JobChange = CustomEvent<{ job: Job | null }>;

/** Attributes of the custom element in a framework's `JSX.IntrinsicElements["minutehand-job"]`. */
export type MinutehandJobProps = {
  client?: Client | null | undefined;
  texts?: Record<string, string> | undefined;
  jobId?: string | null | undefined;
  "job-id"?: string | undefined;
  "session-id"?: string | undefined;
  schema?: string | undefined;
  label?: string | undefined;
  onjobchange?: ((event: JobChange) => void) | undefined;
  onjobend?: ((event: JobChange) => void) | undefined;
};

declare global {
  interface HTMLElementTagNameMap {
    "minutehand-job": MinutehandJob;
  }
  // both events bubble to the document and the window
  interface GlobalEventHandlersEventMap {
    /** The job changed. The event is dispatched at most once per frame. */
    jobchange: JobChange;
    /**
     * The job has ended. The event is also dispatched if the job had ended before the first read.
     */
    jobend: JobChange;
  }
}
