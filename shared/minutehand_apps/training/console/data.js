// What the pages of training read and do, and how a training is shown while it is processed.

import { callRoute as call, request, supabase, unwrap } from "../../api.js";
import { pluralize } from "../../lib/format.js";
import { trainingClient } from "./client.js";

const at = (id) => ({ training_id: id });

export const { createTranscriptionJob } = trainingClient(request);

export const trainings = {
  list: (workspaceId, after, signal) =>
    call("GET /api/trainings", { query: { workspace_id: workspaceId, limit: 25, after }, signal }),
  read: (id, signal) => call("GET /api/trainings/{training_id}", { params: at(id), signal }),
  transcript: (id, signal) =>
    call("GET /api/trainings/{training_id}/transcript", { params: at(id), signal }),
  video: (id, signal) => call("GET /api/trainings/{training_id}/video", { params: at(id), signal }),
  cancel: (id) => call("POST /api/trainings/{training_id}/cancel", { params: at(id) }),
  retry: (id) => call("POST /api/trainings/{training_id}/retry", { params: at(id) }),
  share: (id, shared) =>
    call("PUT /api/trainings/{training_id}/share", { params: at(id), body: { shared } }),
  remove: (id) => call("DELETE /api/trainings/{training_id}", { params: at(id) }),
};

export const JOB_TYPES = ["transcription", "sop_generation", "mux_upload"];
const PAGE = 100;
export const MOST_COUNTED = 1000;
const RUNNING = ["processing", "cancelling"];

export const isLiveJob = ({ status }) => status === "pending" || RUNNING.includes(status);

/** A page of the jobs of all trainings, newest first; with the first, how many need a look. */
export async function monitored(workspaceId, { status, type, after }, signal) {
  const asked = (columns) => {
    const some = supabase().from("background_jobs").select(columns).eq("company_id", workspaceId);
    return type ? some.eq("job_type", type) : some;
  };
  let page = asked("*");
  if (status) page = page.in("status", status === "processing" ? RUNNING : [status]);
  if (after) page = page.lt("id", after);
  const open = asked("status")
    .in("status", ["pending", "failed", ...RUNNING])
    .limit(MOST_COUNTED);
  const [jobs, found] = await Promise.all([
    unwrap(page.order("id", { ascending: false }).limit(PAGE), signal),
    after ? [] : unwrap(open, signal),
  ]);
  const count = (...of) => found.filter((one) => of.includes(one.status)).length;
  const counts = {
    pending: count("pending"),
    processing: count(...RUNNING),
    failed: count("failed"),
  };
  return { jobs, counts, next: jobs.length === PAGE ? jobs.at(-1).id : null };
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
/** Why a job that began does not run: what it waits for, or what failed and is tried again. */
const waitsFor = ({ status, stage, progress_message: message, error_data: error }) =>
  status === "pending" && (stage === "waiting" ? message : error?.message);
/** What is being done of a training, or why nothing is. */
export const nowOf = ({ jobs }) =>
  jobs
    .filter((job) => job.status === "processing")
    .map((job) => DOES[job.job_type])
    .join("; ") ||
  jobs.map(waitsFor).find(Boolean) ||
  "Waiting for its turn";
/** What there is of a training that is ready, or what is being done of one that is not. */
export function aboutOf(training) {
  if (training.reason) return training.reason;
  if (!isOver(training.status)) return nowOf(training);
  const steps = training.procedure?.procedure?.steps.length;
  const parts = [
    training.media?.seconds && clock(training.media.seconds),
    steps ? `procedure of ${pluralize(steps, "step")}` : training.transcript && "transcript",
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
