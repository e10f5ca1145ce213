// The element as a page has it; `minutehand/element` defines it.

import type { Client, Job, Json } from "./index.js";

export interface MinutehandJob extends HTMLElement {
  /** Your supabase-js client. */
  client: Client | null | undefined;
  /** Words in place of the English ones. */
  texts: Record<string, string>;
  /** The attribute `job-id`. */
  jobId: string | null;
  readonly job: Job | null;
  /** Read now. */
  refresh(): Promise<void>;
  /** Answer the question it waits with. */
  answer(answer: Json): Promise<void>;
}

export type JobChange = CustomEvent<{ job: Job | null }>;

/** What a framework's markup may set of it, for its `JSX.IntrinsicElements["minutehand-job"]`. */
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
  // both bubble, to the document and the window
  interface GlobalEventHandlersEventMap {
    /** Something of it changed, at most once per frame. */
    jobchange: JobChange;
    /** It has ended, or had when it was read. */
    jobend: JobChange;
  }
}
