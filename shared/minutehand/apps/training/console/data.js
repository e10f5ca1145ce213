// What the pages of training read and do, and how a training looks while it is worked on.

import { request, supabase, unwrap } from "../../api.js";

const at = (id, more = "") => `/api/trainings/${encodeURIComponent(id)}${more}`;
const upload = (id, more = "") => `/api/uploads/${encodeURIComponent(id)}${more}`;

export const uploads = {
  create: (file) => request("POST", "/api/uploads", { body: file }),
  read: (id, signal) => request("GET", upload(id), { signal }),
  sign: (id, numbers, signal) => request("POST", upload(id, "/parts"), { body: { part_numbers: numbers }, signal }),
  complete: (id) => request("POST", upload(id, "/complete")),
  abort: (id) => request("DELETE", upload(id)),
};

export const trainings = {
  list: (workspaceId, after, signal) => request("GET", "/api/trainings", { query: { workspace_id: workspaceId, limit: 25, after }, signal }),
  start: (training) => request("POST", "/api/trainings", { body: training }),
  read: (id, signal) => request("GET", at(id), { signal }),
  transcript: (id, signal) => request("GET", at(id, "/transcript"), { signal }),
  procedure: (id, version, signal) => request("GET", at(id, "/procedure"), { query: { version }, signal }),
  markdown: (id, version) => request("GET", at(id, "/procedure"), { query: { version }, headers: { Accept: "text/markdown" }, as: "blob" }),
  save: (id, version, procedure) => request("PUT", at(id, "/procedure"), { body: { base_version: version, procedure } }),
  video: (id, signal) => request("GET", at(id, "/video"), { signal }),
  cancel: (id) => request("POST", at(id, "/cancel")),
  retry: (id) => request("POST", at(id, "/retry")),
  remove: (id) => request("DELETE", at(id)),
};

const MOST = 100;

export const monitor = {
  /** Jobs that have not ended, about in the order of their turns. */
  queue: (workspaceId, signal) => unwrap(supabase().from("job_queue").select("*").eq("workspace_id", workspaceId).like("type", "training%").order("priority").order("due_at", { nullsFirst: true }).order("id").limit(MOST).abortSignal(signal)),
  /** Jobs that have, the latest first. */
  ended: (workspaceId, signal) => unwrap(supabase().from("background_jobs").select("*").eq("workspace_id", workspaceId).like("type", "training%").not("completed_at", "is", null).order("created_at", { ascending: false }).order("id").limit(MOST).abortSignal(signal)),
  MOST,
};

export const STATES = {
  pending: { word: "Pending", tone: "pending" },
  running: { word: "Under way", tone: "processing" },
  completed: { word: "Ready", tone: "completed" },
  failed: { word: "Failed", tone: "failed" },
  cancelled: { word: "Cancelled", tone: "cancelled" },
};
export const isOver = (status) => status !== "pending" && status !== "running";

const STAGES = [
  ["verify", "Video checked", "training_prepare"],
  ["audio", "Sound taken out", "training_prepare"],
  ["transcribe", "Words written down", "training_chunk"],
  ["procedure", "Procedure written", "training_procedure"],
  ["publish", "Video published", "training_publish"],
];
const LIVE = new Set(["pending", "processing", "waiting"]);

/**
 * A training's stages in their order, each with its state, its share done and a sentence.
 *
 * @param {object} training As the API tells it.
 * @param {Map<string, object>} live Rows of its jobs by id, newer than the training's own.
 */
export function picture(training, live) {
  const stored = new Map(training.stages.map((stage) => [stage.name, stage]));
  const jobs = training.jobs.map((job) => ({ ...job, ...live.get(job.id) }));
  const chunks = stored.get("audio")?.result?.chunks?.length ?? 0;
  return STAGES.map(([name, title, type]) => {
    const stage = stored.get(name);
    if (stage?.status === "completed") return { name, title, state: "completed", stage, done: 100, words: summary(name, stage.result) };
    const own = jobs.filter((job) => job.type === type);
    const waits = name === "audio" && stored.get("verify")?.status !== "completed";
    const isLive = !isOver(training.status) && !waits && own.some((job) => LIVE.has(job.status));
    if (isLive) {
      const again = own.find((job) => job.status === "pending" && job.attempts > 0 && job.next_retry_at);
      const error = again ? again.error_message ?? again.error : null;
      if (name === "transcribe" && chunks > 0) {
        const parts = own.filter((job) => job.status === "processing").reduce((sum, job) => sum + (job.progress?.percentage ?? 0) / 100, 0);
        const heard = Math.max(training.heard, chunks - own.length + own.filter((job) => job.status === "completed").length);
        return { name, title, state: "running", done: Math.min(100, ((heard + parts) / chunks) * 100), words: `${heard} of ${chunks} stretches`, error };
      }
      return { name, title, state: "running", done: own[0].progress?.percentage ?? 0, words: own[0].progress?.message ?? "", error };
    }
    if (stage?.status === "failed") return { name, title, state: "failed", stage, why: stage.reason };
    return { name, title, state: isOver(training.status) ? "missing" : "pending" };
  });
}

function summary(name, result) {
  if (name === "verify") return [result.seconds === null ? null : clock(result.seconds), result.width && `${result.width} × ${result.height}`, result.video, result.audio].filter(Boolean).join(" · ");
  if (name === "audio") return `${clock(result.seconds)} in ${result.chunks.length === 1 ? "one stretch" : `${result.chunks.length} stretches`}`;
  if (name === "transcribe") return `${result.words} words by ${result.engine}`;
  if (name === "procedure") return `${result.steps} steps by ${result.author}`;
  return result.host === "mux" ? `At the video host as ${result.playback_id ?? result.asset_id}` : result.note;
}

/** 0:05, 12:40, 1:02:03: a time in a video. */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, String(whole % 60).padStart(2, "0")];
  return hours > 0 ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** The seconds a time says, as `1:02:03`, `4:05` or `12.5`; NaN when it says none. */
export function secondsOf(text) {
  if (!/^\d+(:[0-5]?\d){0,2}(\.\d+)?$/.test(text.trim())) return Number.NaN;
  return text.trim().split(":").reduce((sum, part) => sum * 60 + Number(part), 0);
}
