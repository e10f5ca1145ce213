// What the pages of training read and do, and how a training is shown while it is processed.

import { callRoute, filled, request, supabase, unwrap } from "../../api.js";
import { trainingClient } from "./client.js";

/** @import { Call } from "../../api.js" */
/** @import { SessionJob } from "../../lib/jobs/types.js" */
/** @import { Routes, Stage, TrainingState } from "./routes.js" */
/**
 * @typedef {{id: string, training_id: string, title: string, job_type: string,
 *   status: "pending" | "processing" | "completed" | "failed" | "cancelled", progress_percentage: number,
 *   progress_message: string | null, error_data: {message: string | null, code?: string} | null, retry_count: number,
 *   max_retries: number, created_at: string, started_at: string | null, completed_at: string | null,
 *   cancel_requested_at: string | null}} MonitoredJob What the monitor shows of a row of
 *   `background_jobs`, with its training's title.
 */
/**
 * @typedef {{name: Stage["name"], title: string,
 *   state: "pending" | "running" | "completed" | "failed" | "missing", stage?: Stage, done?: number,
 *   words?: string, error?: string | null, why?: string | null}} StageLine `done` is 0 to 100; `error`
 *   is of the attempt before, `why` the last one's.
 */

/** @type {Call<Routes>} */
const call = callRoute;
const at = (/** @type {string} */ id) => ({ training_id: id });

export const { createTranscriptionJob } = trainingClient(request);

export const trainings = {
  /**
   * @param {string} workspaceId
   * @param {string | null} [after]
   * @param {AbortSignal} [signal]
   */
  list: (workspaceId, after, signal) =>
    call("GET /api/trainings", { query: { workspace_id: workspaceId, limit: 25, after }, signal }),
  read: (/** @type {string} */ id, /** @type {AbortSignal} */ signal) =>
    call("GET /api/trainings/{training_id}", { places: at(id), signal }),
  transcript: (/** @type {string} */ id, /** @type {AbortSignal} */ signal) =>
    call("GET /api/trainings/{training_id}/transcript", { places: at(id), signal }),
  /**
   * @param {string} id
   * @param {number | undefined} version The latest if omitted.
   * @param {AbortSignal} [signal]
   */
  procedure: (id, version, signal) =>
    call("GET /api/trainings/{training_id}/procedure", {
      places: at(id),
      query: { version },
      signal,
    }),
  markdown: (/** @type {string} */ id, /** @type {number | null} */ version) =>
    request(...filled("GET /api/trainings/{training_id}/procedure", at(id)), {
      query: { version },
      headers: { Accept: "text/markdown" },
      as: "blob",
    }),
  /**
   * @param {string} id
   * @param {number} version The version that was edited.
   * @param {Routes["PUT /api/trainings/{training_id}/procedure"]["body"]["procedure"]} procedure
   */
  save: (id, version, procedure) =>
    call("PUT /api/trainings/{training_id}/procedure", {
      places: at(id),
      body: { base_version: version, procedure },
    }),
  video: (/** @type {string} */ id, /** @type {AbortSignal} */ signal) =>
    call("GET /api/trainings/{training_id}/video", { places: at(id), signal }),
  cancel: (/** @type {string} */ id) =>
    call("POST /api/trainings/{training_id}/cancel", { places: at(id) }),
  /**
   * @param {string} id
   * @param {boolean} [withoutModel] Extract the procedure, although there is a language model.
   */
  retry: (id, withoutModel = false) =>
    call("POST /api/trainings/{training_id}/retry", {
      places: at(id),
      query: { without_model: withoutModel },
    }),
  remove: (/** @type {string} */ id) =>
    call("DELETE /api/trainings/{training_id}", { places: at(id) }),
};

const MOST = 100;
export const JOB_TYPES = ["transcription", "sop_generation", "mux_upload"];

export const monitor = {
  /**
   * The jobs of a training or of all, the latest first, each with its training's title.
   *
   * @param {{workspaceId: string, trainingId?: string, status?: string, type?: string}} wanted
   * @param {AbortSignal} signal
   * @returns {Promise<MonitoredJob[]>}
   */
  async jobs({ workspaceId, trainingId, status, type }, signal) {
    let asked = supabase().from("background_jobs").select("*").eq("company_id", workspaceId);
    if (trainingId) asked = asked.eq("training_id", trainingId);
    if (status) asked = asked.eq("status", status);
    if (type) asked = asked.eq("job_type", type);
    /** @type {Omit<MonitoredJob, "title">[]} */
    const rows = await unwrap(
      asked.order("created_at", { ascending: false }).order("id").limit(MOST).abortSignal(signal),
    );
    const ids = [...new Set(rows.map((row) => row.training_id))];
    /** @type {{id: string, title: string}[]} */
    const named =
      ids.length === 0
        ? []
        : await unwrap(
            supabase().from("trainings").select("id,title").in("id", ids).abortSignal(signal),
          );
    const titles = new Map(named.map((one) => [one.id, one.title]));
    return rows.map((row) => ({ ...row, title: titles.get(row.training_id) ?? "" }));
  },
  /** Jobs that have been due for more than ten minutes and were not started, and why. */
  stuck: (/** @type {string} */ workspaceId, /** @type {AbortSignal} */ signal) =>
    call("GET /api/trainings/stuck-jobs", { query: { workspace_id: workspaceId }, signal }),
  MOST,
};

export const STATES = {
  pending: { word: "Pending", tone: "pending" },
  running: { word: "Under way", tone: "processing" },
  completed: { word: "Ready", tone: "completed" },
  failed: { word: "Failed", tone: "failed" },
  cancelled: { word: "Cancelled", tone: "cancelled" },
};
export const isOver = (/** @type {string} */ status) =>
  status !== "pending" && status !== "running";

/** @type {[name: Stage["name"], title: string, jobType: string][]} */
const STAGES = [
  ["verify", "Video checked", "transcription"],
  ["audio", "Sound taken out", "transcription"],
  ["transcribe", "Words written down", "transcription"],
  ["procedure", "Procedure written", "sop_generation"],
  ["publish", "Video published", "mux_upload"],
];
const LIVE = new Set(["pending", "processing", "waiting"]);

/**
 * A training's stages in their order, each with its state, its share done and a sentence.
 *
 * @param {TrainingState} training
 * @param {Map<string, SessionJob>} live Rows of its jobs by id, newer than the training's own.
 * @returns {StageLine[]}
 */
export function picture(training, live) {
  const stored = new Map(training.stages.map((stage) => [stage.name, stage]));
  const jobs = new Map(training.jobs.map((job) => [job.job_type, { ...job, ...live.get(job.id) }]));
  const chunks = stored.get("audio")?.result?.chunks?.length ?? 0;
  const next = STAGES.find(
    ([name, , type]) => type === "transcription" && stored.get(name)?.status !== "completed",
  )?.[0];
  return STAGES.map(([name, title, type]) => {
    const stage = stored.get(name);
    if (stage?.status === "completed")
      return {
        name,
        title,
        state: "completed",
        stage,
        done: 100,
        words: summary(name, /** @type {NonNullable<Stage["result"]>} */ (stage.result)),
      };
    const job = jobs.get(type);
    const isNext = type !== "transcription" || name === next;
    if (job && isNext && LIVE.has(job.status)) {
      const error =
        job.status === "pending" && job.next_retry_at ? (job.error_message ?? job.error) : null;
      if (name === "transcribe" && chunks > 0)
        return {
          name,
          title,
          state: "running",
          done: (training.heard / chunks) * 100,
          words: `${training.heard} of ${chunks} chunks`,
          error,
        };
      return {
        name,
        title,
        state: "running",
        done: job.progress?.percentage ?? 0,
        words: job.progress?.message ?? "",
        error,
      };
    }
    if (stage?.status === "failed")
      return { name, title, state: "failed", stage, why: stage.reason };
    return { name, title, state: isOver(training.status) ? "missing" : "pending" };
  });
}

/**
 * What a completed stage came to, in words.
 *
 * @param {Stage["name"]} name
 * @param {NonNullable<Stage["result"]>} result
 */
function summary(name, result) {
  if (name === "verify")
    return [
      result.seconds === null ? null : clock(result.seconds),
      result.width && `${result.width} × ${result.height}`,
      result.video,
      result.audio,
    ]
      .filter(Boolean)
      .join(" · ");
  if (name === "audio")
    return `${clock(result.seconds)} in ${result.chunks.length === 1 ? "one chunk" : `${result.chunks.length} chunks`}`;
  if (name === "transcribe") return `${result.words} words by ${result.engine}`;
  if (name === "procedure") return `${result.steps} steps by ${result.author}`;
  return result.host === "mux"
    ? `At the video host as ${result.playback_id ?? result.asset_id}`
    : result.note;
}

/** 0:05, 12:40, 1:02:03: a time in a video. */
export function clock(/** @type {number} */ seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes, rest] = [
    Math.floor(whole / 3600),
    Math.floor(whole / 60) % 60,
    String(whole % 60).padStart(2, "0"),
  ];
  return hours > 0 ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** The seconds a time says, as `1:02:03`, `4:05` or `12.5`; NaN when it says none. */
export function secondsOf(/** @type {string} */ text) {
  if (!/^\d+(:[0-5]?\d){0,2}(\.\d+)?$/.test(text.trim())) return Number.NaN;
  return text
    .trim()
    .split(":")
    .reduce((sum, part) => sum * 60 + Number(part), 0);
}
