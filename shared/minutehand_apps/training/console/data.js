// What the pages of training read and do, and how a training is shown while it is processed.

import { callRoute as call, request, supabase, unwrap } from "../../api.js";
import { counted } from "../../lib/format.js";
import { trainingClient } from "./client.js";

const at = (id) => ({ training_id: id });

export const { createTranscriptionJob } = trainingClient(request);

export const trainings = {
  list: (workspaceId, after, signal) =>
    call("GET /api/trainings", { query: { workspace_id: workspaceId, limit: 25, after }, signal }),
  read: (id, signal) => call("GET /api/trainings/{training_id}", { places: at(id), signal }),
  transcript: (id, signal) =>
    call("GET /api/trainings/{training_id}/transcript", { places: at(id), signal }),
  video: (id, signal) => call("GET /api/trainings/{training_id}/video", { places: at(id), signal }),
  cancel: (id) => call("POST /api/trainings/{training_id}/cancel", { places: at(id) }),
  retry: (id) => call("POST /api/trainings/{training_id}/retry", { places: at(id) }),
  share: (id, shared) =>
    call("PUT /api/trainings/{training_id}/share", { places: at(id), body: { shared } }),
  remove: (id) => call("DELETE /api/trainings/{training_id}", { places: at(id) }),
};

const MOST = 100;
export const JOB_TYPES = ["transcription", "sop_generation", "mux_upload"];

/** The jobs of a training or of all, the latest hundred. */
export async function monitored({ workspaceId, trainingId, status, type }, signal) {
  let asked = supabase().from("background_jobs").select("*").eq("company_id", workspaceId);
  if (trainingId) asked = asked.eq("training_id", trainingId);
  if (status) asked = asked.eq("status", status);
  if (type) asked = asked.eq("job_type", type);
  return unwrap(asked.order("created_at", { ascending: false }).order("id").limit(MOST), signal);
}

export const STATES = {
  pending: { word: "Pending", tone: "pending" },
  running: { word: "Under way", tone: "processing" },
  cancelling: { word: "Cancelling", tone: "processing" },
  completed: { word: "Ready", tone: "completed" },
  failed: { word: "Failed", tone: "failed" },
  cancelled: { word: "Cancelled", tone: "cancelled" },
};
/** What a job makes, in words for people. */
export const MAKES = {
  transcription: "Transcript",
  sop_generation: "Procedure",
  mux_upload: "Video",
};
/** What it does meanwhile. */
const DOES = {
  transcription: "Writing down what is said",
  sop_generation: "Making a procedure of it",
  mux_upload: "Preparing the video",
};
/** What is being done of a training; nothing while all of it waits. */
export const nowOf = ({ jobs }) =>
  jobs
    .filter((job) => job.status === "processing")
    .map((job) => DOES[job.job_type])
    .join("; ") || "Waiting for its turn";
/** What there is of a training that is ready, or what is being done of one that is not. */
export function aboutOf(training) {
  if (training.reason) return training.reason;
  if (!isOver(training.status)) return nowOf(training);
  const steps = training.procedure?.procedure?.steps.length;
  const parts = [
    training.media?.seconds && clock(training.media.seconds),
    steps ? `procedure of ${counted(steps, "step")}` : training.transcript && "transcript",
    training.share_id && "shared",
  ];
  return parts.filter(Boolean).join(" · ");
}
export const isOver = (status) => ["completed", "failed", "cancelled"].includes(status);

/** 0:05, 12:40, 1:02:03: a time in a video. */
export function clock(seconds) {
  const text = new Date(Math.max(0, seconds) * 1000).toISOString().slice(11, 19);
  return text.replace(/^00:0?|^0/, "");
}
