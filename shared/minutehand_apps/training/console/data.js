// What the pages of training read and do, and how a training is shown while it is processed.

import { callRoute, request, supabase, unwrap } from "../../api.js";
import { trainingClient } from "./client.js";

/** @import { Call } from "../../api.js" */
/** @import { Routes, TrainingState } from "./routes.js" */
/**
 * @typedef {{id: string, training_id: string, title: string, job_type: string,
 *   status: "pending" | "processing" | "completed" | "failed" | "cancelled", progress_percentage: number,
 *   progress_message: string | null, error_data: {message: string | null} | null, retry_count: number,
 *   max_retries: number, created_at: string, started_at: string | null, completed_at: string | null}} MonitoredJob
 *   What the monitor shows of a row of `background_jobs`, with its training's title.
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
  video: (/** @type {string} */ id, /** @type {AbortSignal} */ signal) =>
    call("GET /api/trainings/{training_id}/video", { places: at(id), signal }),
  cancel: (/** @type {string} */ id) =>
    call("POST /api/trainings/{training_id}/cancel", { places: at(id) }),
  retry: (/** @type {string} */ id) =>
    call("POST /api/trainings/{training_id}/retry", { places: at(id) }),
  remove: (/** @type {string} */ id) =>
    call("DELETE /api/trainings/{training_id}", { places: at(id) }),
};

const MOST = 100;
export const JOB_TYPES = ["transcription", "sop_generation", "mux_upload"];

/**
 * The jobs of a training or of all, the latest hundred, each with its training's title.
 *
 * @param {{workspaceId: string, trainingId?: string, status?: string, type?: string}} wanted
 * @param {AbortSignal} signal
 * @returns {Promise<MonitoredJob[]>}
 */
export async function monitored({ workspaceId, trainingId, status, type }, signal) {
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
}

export const STATES = {
  pending: { word: "Pending", tone: "pending" },
  running: { word: "Under way", tone: "processing" },
  completed: { word: "Ready", tone: "completed" },
  failed: { word: "Failed", tone: "failed" },
  cancelled: { word: "Cancelled", tone: "cancelled" },
};
export const isOver = (/** @type {string} */ status) =>
  status !== "pending" && status !== "running";

/** What is finished of a training, each in words: `[title, words]`. */
export function finished(/** @type {TrainingState} */ { media, sound, transcript, published }) {
  /** @type {[string, string][]} */
  const lines = [];
  if (media)
    lines.push([
      "Video checked",
      [
        media.seconds === null ? null : clock(media.seconds),
        media.width && `${media.width} × ${media.height}`,
        media.video,
        media.audio,
      ]
        .filter(Boolean)
        .join(" · "),
    ]);
  if (sound) lines.push(["Sound taken out", `${sound.chunks.length} chunks`]);
  if (transcript)
    lines.push(["Words written down", `${transcript.words} words by ${transcript.engine}`]);
  if (published)
    lines.push([
      "Video published",
      published.note ?? `At the video host as ${published.playback_id}`,
    ]);
  return lines;
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
