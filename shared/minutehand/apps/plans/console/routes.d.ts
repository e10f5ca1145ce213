// Written by `python -m infra.release.console_types` from the OpenAPI document; do not edit.
// This file has no counterpart at run time.

/** Any JSON, such as a payload or a result. */
export type Json = any;

export interface Routes {
  "GET /api/plans": { query: {
  workspace_id?: string | null;
  /** The `next` of the page before. */
  after?: string | null;
  limit?: number;
  /** For EventSource, which sends no headers. */
  access_token?: string | null;
  /** A guest session's id, for its holder: it replaces a token. */
  session_id?: string | null;
}; body: undefined; answer: PlanPage };
  "POST /api/plans": { query: {
  /** For EventSource, which sends no headers. */
  access_token?: string | null;
  /** A guest session's id, for its holder: it replaces a token. */
  session_id?: string | null;
}; body: NewPlan; answer: Created };
  "DELETE /api/plans/{plan_id}": { query: {
  /** For EventSource, which sends no headers. */
  access_token?: string | null;
}; body: undefined; answer: null };
  "GET /api/plans/{plan_id}": { query: {
  /** For EventSource, which sends no headers. */
  access_token?: string | null;
}; body: undefined; answer: PlanState };
  "POST /api/plans/{plan_id}/cancel": { query: {
  /** For EventSource, which sends no headers. */
  access_token?: string | null;
}; body: undefined; answer: PlanState };
  "GET /api/plans/{plan_id}/files": { query: {
  /** For EventSource, which sends no headers. */
  access_token?: string | null;
}; body: undefined; answer: FileList };
  "GET /api/plans/{plan_id}/files/{name}": { query: {
  /** For EventSource, which sends no headers. */
  access_token?: string | null;
}; body: undefined; answer: Json };
  "POST /api/plans/{plan_id}/regenerate": { query: {
  /** For EventSource, which sends no headers. */
  access_token?: string | null;
}; body: Regeneration; answer: Created };
  "GET /api/plans/{plan_id}/report": { query: {
  /** For EventSource, which sends no headers. */
  access_token?: string | null;
}; body: undefined; answer: Report };
  "POST /api/plans/{plan_id}/restart": { query: {
  /** For EventSource, which sends no headers. */
  access_token?: string | null;
}; body: undefined; answer: Created };
  "GET /api/plans/{plan_id}/stream": { query: {
  after?: number | null;
  /** For EventSource, which sends no headers. */
  access_token?: string | null;
}; body: undefined; answer: minutehand__apps__plans__models__EventPage | null };
  "GET /api/plans/{plan_id}/stream-status": { query: {
  /** For EventSource, which sends no headers. */
  access_token?: string | null;
}; body: undefined; answer: StreamStatus };
  "GET /api/plans/{plan_id}/zip": { query: {
  /** For EventSource, which sends no headers. */
  access_token?: string | null;
}; body: undefined; answer: Json };
}

export type Artifact = {
  name: string;
  stage: string;
  media_type: string;
  bytes: number;
  created_at: string;
  url: string;
};

export type Created = {
  plan_id: string;
  status: "pending" | "running" | "completed" | "failed" | "cancelled";
  created_at: string;
  stream_url: string;
  /** Private Realtime topic of the plan's events. */
  realtime_topic: string;
  /** A guest's session: names it, and lists its plans. */
  session_id: string | null;
  job_id: string | null;
};

export type FileList = {
  files: Artifact[];
  zip_url: string;
};

export type Missing = {
  stage: string;
  title: string;
  /** A stable word, e.g. running, cancelled, needs_stage. */
  code: string;
  reason: string;
};

export type NewPlan = {
  prompt: string;
  speed_vs_detail?: "fast_but_skip_details" | "balanced_speed_and_detail" | "all_details_but_slow";
  /** The same key finds the same plan; also as Idempotency-Key. */
  idempotency_key?: string | null;
  /** For members of several; else the first they joined. */
  workspace_id?: string | null;
};

export type PlanError = {
  code: string;
  stage: string | null;
  reason: string;
};

export type PlanEvent = {
  plan_id: string;
  seq: number;
  type: string;
  data: { [name: string]: Json };
  at: string;
};

export type PlanLine = {
  plan_id: string;
  prompt: string;
  speed_vs_detail: "fast_but_skip_details" | "balanced_speed_and_detail" | "all_details_but_slow";
  status: "pending" | "running" | "completed" | "failed" | "cancelled";
  stage: string | null;
  percentage: number;
  job_id: string | null;
  forked_from: string | null;
  created_at: string;
  finished_at: string | null;
};

export type PlanPage = {
  plans: PlanLine[];
  /** Pass as `after` for more; null at the end. */
  next: string | null;
};

export type PlanState = {
  plan_id: string;
  prompt: string;
  speed_vs_detail: "fast_but_skip_details" | "balanced_speed_and_detail" | "all_details_but_slow";
  status: "pending" | "running" | "completed" | "failed" | "cancelled";
  stage: string | null;
  percentage: number;
  error: PlanError | null;
  run: number;
  forked_from: string | null;
  forked_at_stage: string | null;
  job_id: string | null;
  stream_url: string;
  realtime_topic: string;
  report_url: string;
  last_seq: number;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
  stages: StageState[];
  artifacts: Artifact[];
};

export type Regeneration = {
  stage: string;
};

export type Report = {
  plan_id: string;
  prompt: string;
  speed_vs_detail: "fast_but_skip_details" | "balanced_speed_and_detail" | "all_details_but_slow";
  status: "pending" | "running" | "completed" | "failed" | "cancelled";
  partial: boolean;
  missing: Missing[];
  notice: string;
  created_at: string;
  chapters: ReportChapter[];
};

export type ReportChapter = {
  stage: string;
  title: string;
  model: string | null;
  data: { [name: string]: Json };
  blocks: { [name: string]: Json }[];
};

export type StageState = {
  name: string;
  title: string;
  needs: string[];
  status: "pending" | "running" | "completed" | "failed" | "not_run";
  attempts: number;
  started_at: string | null;
  ended_at: string | null;
  seconds: number | null;
  code: string | null;
  reason: string | null;
  model: string | null;
};

export type StreamStatus = {
  status: "ready";
  ready: true;
};

export type minutehand__apps__plans__models__EventPage = {
  events: PlanEvent[];
  more: boolean;
  ended: string | null;
};
