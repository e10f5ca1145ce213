// Requests of the training pages, and texts for the state of a training.

import { callRoute as call, duration, pluralize, supabase, unwrap } from "../../app.js";

/**
 * Submit an uploaded recording. Returns the id of the job that transcribes the recording.
 */
export const createTranscriptionJob = (userId, companyId, audioUrl, trainingId) =>
  call("POST /api/trainings/{training_id}/transcription", {
    params: { training_id: trainingId },
    body: { user_id: userId, company_id: companyId, audio_url: audioUrl },
  }).then((job) => job.job_id);

/** Return a function that calls a route with the id of a training. */
const ofTraining = (route) => (id, signal, body) =>
  call(route, { params: { training_id: id }, signal, body });

export const trainings = {
  list: (workspaceId, after, signal) =>
    call("GET /api/trainings", { query: { workspace_id: workspaceId, limit: 25, after }, signal }),
  read: ofTraining("GET /api/trainings/{training_id}"),
  transcript: ofTraining("GET /api/trainings/{training_id}/transcript"),
  video: ofTraining("GET /api/trainings/{training_id}/video"),
  cancel: ofTraining("POST /api/trainings/{training_id}/cancel"),
  retry: ofTraining("POST /api/trainings/{training_id}/retry"),
  editStep: (id, step, text) =>
    call("PUT /api/trainings/{training_id}/steps/{step}", {
      params: { training_id: id, step },
      body: text,
    }),
  share: (id, shared) => ofTraining("PUT /api/trainings/{training_id}/share")(id, null, { shared }),
  remove: ofTraining("DELETE /api/trainings/{training_id}"),
};

export const JOB_TYPES = ["transcription", "sop_generation", "mux_upload"];
const PAGE = 100;
export const MAX_COUNTED = 1000;
const RUNNING = ["processing", "cancelling"];

export const isLiveJob = ({ status }) => status === "pending" || RUNNING.includes(status);

/**
 * Read a page of the jobs of all trainings, newest first. The response with the first page also
 * contains the number of jobs in each state.
 */
export async function monitored(workspaceId, { status, type, after }, signal) {
  const select = (columns) => {
    const some = supabase().from("background_jobs").select(columns).eq("company_id", workspaceId);
    return type ? some.eq("job_type", type) : some;
  };
  let page = select("*");
  if (status) page = page.in("status", status === "processing" ? RUNNING : [status]);
  if (after) page = page.lt("id", after);
  const open = select("status")
    .in("status", ["pending", "failed", ...RUNNING])
    .limit(MAX_COUNTED);
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
/** Return the word and the colour (tone) for the state of a training. */
export const stateOf = ({ status, procedure }) =>
  status === "completed" && !procedure?.procedure
    ? { word: "Transcript only", tone: "pending" }
    : STATES[status];
/** Names of the results of jobs, by job type. */
export const MAKES = {
  transcription: "Transcript",
  sop_generation: "Procedure",
  mux_upload: "Video",
};
/** Text that describes a running job, by job type. */
const DOES = {
  transcription: "Transcribing the sound",
  sop_generation: "Writing a procedure",
  mux_upload: "Preparing the video",
};
/**
 * Return why a pending job does not run. The job waits for an event, or an error has delayed the
 * job until its retry.
 */
const waitsFor = ({ status, stage, progress_message: message, error_data: error }) =>
  status === "pending" && (stage === "waiting" ? message : error?.message);
/** Describe the running jobs of a training. If no job runs, say why. */
export const nowOf = ({ jobs }) =>
  jobs
    .filter((job) => job.status === "processing")
    .map((job) => DOES[job.job_type])
    .join("; ") ||
  jobs.map(waitsFor).find(Boolean) ||
  "Waiting for its turn";
/** Describe the results of a finished training, or the running jobs of an unfinished training. */
export function aboutOf(training) {
  if (training.reason) return training.reason;
  if (!isOver(training.status)) return nowOf(training);
  const steps = training.procedure?.procedure?.steps.length;
  const parts = [
    training.media?.seconds &&
      duration(Math.round(training.media.seconds) * 1000).replace(".0", ""),
    steps ? `procedure of ${pluralize(steps, "step")}` : training.transcript && "transcript",
    training.share_id && "shared",
  ];
  return parts.filter(Boolean).join(", ");
}
export const isOver = (status) => ["completed", "failed", "cancelled"].includes(status);

/** Format a time in a video as 0:05, 12:40 or 1:02:03. */
export function clock(seconds) {
  const text = new Date(Math.max(0, seconds) * 1000).toISOString().slice(11, 19);
  return text.replace(/^00:0?|^0/, "");
}
