// Types of the custom element that `minutehand/element` defines.

import type { Client, Job, Json } from "./index.js";

export interface MinutehandJob extends HTMLElement {
  /** Your supabase-js client. */
  client: Client | null | undefined;
  /** Texts that replace the element's English texts, by the text's name. */
  texts: Record<string, string>;
  /** The id of the job, which is also the attribute `job-id`. */
  jobId: string | null;
  readonly job: Job | null;
  /** Read the job from the database now. */
  refresh(): Promise<void>;
  /** Answer the question that the job asks. */
  answer(answer: Json): Promise<void>;
}

export type JobChange = CustomEvent<{ job: Job | null }>;

/** Attributes of the custom element in `JSX.IntrinsicElements["minutehand-job"]` of a framework. */
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
  // the events `jobchange` and `jobend` bubble to the document and the window
  interface GlobalEventHandlersEventMap {
    /**
     * Event `jobchange`, which reports that the job has changed. The element dispatches `jobchange`
     * at most once per frame.
     */
    jobchange: JobChange;
    /**
     * Event `jobend`, which reports that the job has ended. The element dispatches `jobend` even if
     * the job had ended before the element's first read.
     */
    jobend: JobChange;
  }
}
