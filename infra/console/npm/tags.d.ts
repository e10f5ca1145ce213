// The elements as a page has them; `minutehand/element` defines the first, `minutehand/elements` both.

import type { Freshness, Json, Client } from "./jobs/types.js";
import type { JobsState, Row } from "./jobs/watch-jobs.js";
import type { Texts, Token } from "./jobs/following-element.js";

/** What both elements take; text, looks and parts are in the README. */
interface Following extends HTMLElement {
  /** Your supabase-js client; without one, `url`, `key` and `token` make one for the page. */
  client: Client | null | undefined;
  /** With `url` and `key`: the user's access token, or what gives it; never an attribute. */
  token: Token | undefined;
  /** Words in place of the English ones. */
  texts: Texts | undefined;
  readonly state: Omit<JobsState, "freshness"> & { freshness: Freshness | null };
  /** Read now. */
  refresh(): Promise<void>;
}

export interface MinutehandJob extends Following {
  /** The attribute `job-id`. */
  jobId: string | null;
  /** A row to show in place of one that is followed; it is yours to keep up to date. */
  job: Row | null | undefined;
  /** Answer the question it waits with. */
  answer(answer: Json): Promise<void>;
}

export interface MinutehandJobs extends Following {
  /** Words for a job; its type by default. */
  labelOf: ((job: Row) => string) | undefined;
}

export type JobChange = CustomEvent<MinutehandJob["state"] & { job: Row | null }>;

declare global {
  interface HTMLElementTagNameMap {
    "minutehand-job": MinutehandJob;
    "minutehand-jobs": MinutehandJobs;
  }
  interface HTMLElementEventMap {
    /** Something of it is another, at most once per frame. */
    jobchange: JobChange;
    /** It has ended, or had when it was read. */
    jobend: JobChange;
  }
}
