// Written by `python -m infra.release.console_types` from the OpenAPI document; do not edit.
// This file has no counterpart at run time.

/** Any JSON, such as a payload or a result. */
export type Json = any;

export interface Routes {
  "GET /api/trainings": { query: {
  workspace_id?: string;
  /** The `next` of the page before. */
  after?: string | null;
  limit?: number;
}; body: undefined; answer: TrainingPage };
  "POST /api/trainings": { query: undefined; body: NewTraining; answer: TrainingState };
  "GET /api/trainings/stuck-jobs": { query: {
  workspace_id?: string;
  minutes?: number;
}; body: undefined; answer: StuckJobs };
  "POST /api/trainings/webhooks/mux": { query: undefined; body: undefined; answer: TakenEvent };
  "DELETE /api/trainings/{training_id}": { query: undefined; body: undefined; answer: null };
  "GET /api/trainings/{training_id}": { query: undefined; body: undefined; answer: TrainingState };
  "POST /api/trainings/{training_id}/cancel": { query: undefined; body: undefined; answer: TrainingState };
  "GET /api/trainings/{training_id}/procedure": { query: {
  /** The latest if omitted. */
  version?: number | null;
}; body: undefined; answer: StoredProcedure };
  "PUT /api/trainings/{training_id}/procedure": { query: undefined; body: EditedProcedure; answer: StoredProcedure };
  "POST /api/trainings/{training_id}/retry": { query: undefined; body: undefined; answer: TrainingState };
  "GET /api/trainings/{training_id}/transcript": { query: {
  ending?: "json" | "vtt" | "srt" | null;
}; body: undefined; answer: TranscriptState };
  "GET /api/trainings/{training_id}/transcript.{ending}": { query: undefined; body: undefined; answer: TranscriptState };
  "POST /api/trainings/{training_id}/transcription": { query: undefined; body: NewTranscription; answer: StartedTranscription };
  "GET /api/trainings/{training_id}/video": { query: undefined; body: undefined; answer: Video };
  "POST /api/uploads": { query: undefined; body: CreateUpload; answer: Upload };
  "DELETE /api/uploads/{upload_id}": { query: undefined; body: undefined; answer: null };
  "GET /api/uploads/{upload_id}": { query: undefined; body: undefined; answer: Upload };
  "POST /api/uploads/{upload_id}/complete": { query: undefined; body: CompleteUpload; answer: Upload };
  "POST /api/uploads/{upload_id}/parts": { query: undefined; body: SignParts; answer: SignedParts };
}

export type CompleteUpload = {
  /** SHA-256 of the file, hexadecimal or base64; or of its parts' checksums, with a dash and their number behind it. */
  checksum: string;
};

export type CreateUpload = {
  filename: string;
  content_type: string;
  size: number;
  /** The id that the training gets; a new one if omitted. */
  training_id?: string | null;
  /** May be omitted by members of a single workspace. */
  workspace_id?: string | null;
  /** What the training is called; after its file if omitted. */
  title?: string | null;
};

export type EditedProcedure = {
  /** The version that was edited. */
  base_version: number;
  procedure: EditedSteps;
};

export type EditedStep = {
  title: string;
  detail?: string;
  at_seconds: number;
  number?: number | null;
};

export type EditedSteps = {
  title: string;
  purpose?: string;
  materials?: string[];
  warnings?: string[];
  steps: EditedStep[];
};

export type JobState = {
  id: string;
  job_type: string;
  status: string;
  progress: { [name: string]: Json } | null;
  attempts: number | null;
  max_attempts: number | null;
  next_retry_at: string | null;
  started_at: string | null;
  completed_at: string | null;
  cancel_requested_at: string | null;
  code: string | null;
  error: string | null;
};

export type NewTraining = {
  workspace_id: string;
  title: string;
  /** The complete upload's `key`. */
  object_key: string;
};

export type NewTranscription = {
  /** The caller. */
  user_id: string;
  /** The workspace it belongs to. */
  company_id: string;
  /** An upload of the caller's, by key or address; or an https address of a host that the operator allows. */
  audio_url: string;
  title?: string | null;
};

export type NumberedProcedure = {
  title: string;
  purpose: string;
  materials: string[];
  warnings: string[];
  steps: NumberedStep[];
};

export type NumberedStep = {
  title: string;
  detail: string;
  at_seconds: number;
  number: number;
};

export type PartToSign = {
  part_number: number;
  /** SHA-256, base64 or hexadecimal. */
  checksum: string;
};

export type ProcedureVersion = {
  version: number;
  /** The model that wrote it, or `person`. */
  author: string;
  offline: boolean;
  created_by: string | null;
  created_at: string;
};

export type SignParts = {
  parts: PartToSign[];
};

export type SignedPart = {
  part_number: number;
  url: string;
  size_bytes: number;
  headers: { [name: string]: string };
};

export type SignedParts = {
  parts: SignedPart[];
  expires_in_seconds: number;
};

export type SpokenSegment = {
  start: number;
  end: number;
  text: string;
};

export type Stage = {
  name: "verify" | "audio" | "transcribe" | "procedure" | "publish";
  status: "completed" | "failed";
  run: number;
  result: { [name: string]: Json } | null;
  code: string | null;
  reason: string | null;
  seconds: number;
  finished_at: string | null;
};

export type StartedTranscription = {
  job_id: string;
  training_id: string;
};

export type StoredProcedure = {
  version: number;
  /** The model that wrote it, or `person`. */
  author: string;
  offline: boolean;
  created_by: string | null;
  created_at: string;
  procedure: NumberedProcedure;
  versions: ProcedureVersion[];
};

export type StuckJob = {
  job_id: string;
  job_type: string;
  training_id: string;
  title: string;
  pending_since: string;
  pending_seconds: number;
  reason: string;
  sentence: string;
};

export type StuckJobs = {
  jobs: StuckJob[];
};

export type TakenEvent = {
  known: boolean;
  repeated: boolean;
};

export type TrainingLine = {
  id: string;
  workspace_id: string;
  title: string;
  run: number | null;
  status: "pending" | "running" | "completed" | "failed" | "cancelled";
  progress_percentage: number | null;
  progress_message: string | null;
  /** Why it failed, as a stable word. */
  code: string | null;
  reason: string | null;
  session_id: string;
  created_at: string;
  finished_at: string | null;
  cancel_requested_at: string | null;
  /** transcription, sop_generation and mux_upload. */
  jobs: JobState[];
};

export type TrainingPage = {
  trainings: TrainingLine[];
  /** Give as `after` for the next page; null at the end. */
  next: string | null;
};

export type TrainingState = {
  id: string;
  workspace_id: string;
  title: string;
  run: number | null;
  status: "pending" | "running" | "completed" | "failed" | "cancelled";
  progress_percentage: number | null;
  progress_message: string | null;
  /** Why it failed, as a stable word. */
  code: string | null;
  reason: string | null;
  session_id: string;
  created_at: string;
  finished_at: string | null;
  cancel_requested_at: string | null;
  /** transcription, sop_generation and mux_upload. */
  jobs: JobState[];
  file_name: string;
  host_asset: string | null;
  stages: Stage[];
  /** Chunks of about half a minute that are transcribed. */
  heard: number;
  /** The latest procedure's; null before there is one. */
  version: number | null;
};

export type TranscriptState = {
  text: string;
  segments: SpokenSegment[];
  language: string | null;
  /** Null until the sound is taken out. */
  duration_seconds: number | null;
  engine: string | null;
  offline: boolean;
  complete: boolean;
};

export type Upload = {
  id: string;
  /** The object's name. */
  key: string;
  title: string;
  size_bytes: number;
  part_bytes: number;
  part_count: number;
  complete: boolean;
  /** Numbers of the parts yet to send. */
  missing: number[];
  /** What the complete file became, with its jobs. */
  training: TrainingState | null;
};

export type Video = {
  /** Readable without any other key until it expires. */
  url: string;
  expires_in_seconds: number;
  /** Where the video is kept: `s3`, or the video host as well. */
  host: string;
  /** The video host's id for players; else null. */
  playback_id: string | null;
  duration_seconds: number | null;
  /** Whether browsers play it; null before the check. */
  playable: boolean | null;
  /** Why a browser will not play it, as a sentence. */
  note: string | null;
};
