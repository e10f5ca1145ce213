// What the pages of plans read and do, all by the app's own routes.

import { request } from "../../api.js";

const at = (id, more = "") => `/api/plans/${encodeURIComponent(id)}${more}`;

export const plans = {
  list: (workspaceId, after, signal) => request("GET", "/api/plans", { query: { workspace_id: workspaceId, limit: 25, after }, signal }),
  start: (plan, key) => request("POST", "/api/plans", { body: plan, headers: { "Idempotency-Key": key } }),
  read: (id, signal) => request("GET", at(id), { signal }),
  report: (id, signal) => request("GET", at(id, "/report"), { signal }),
  markdown: (id) => request("GET", at(id, "/report"), { headers: { Accept: "text/markdown" }, as: "blob" }),
  answer: (id, name, answer) => request("POST", at(id, "/answer"), { body: { name, answer } }),
  cancel: (id) => request("POST", at(id, "/cancel")),
  resume: (id) => request("POST", at(id, "/resume")),
};

export const STATES = {
  pending: { word: "Pending", tone: "pending" },
  running: { word: "Being written", tone: "processing" },
  asking: { word: "Asks you", tone: "waiting" },
  completed: { word: "Completed", tone: "completed" },
  partial: { word: "Partial", tone: "waiting" },
};
export const isOver = (status) => status === "completed" || status === "partial";

const NAMES = { understand: "Goal understood", answers: "Your answers", outline: "Outline", phases: "Phases", risks: "Risks", review: "Review" };

/** A stage's name in words; of a phase with its title where the outline tells it. */
export function nameOf(stage, outline = []) {
  const number = /^phase:(\d+)$/.exec(stage)?.[1];
  if (!number) return NAMES[stage] ?? stage;
  return `Phase ${number}${outline[number - 1] ? `: ${outline[number - 1].title}` : ""}`;
}

/**
 * The picture of a plan: each stage in its order with its state and, while it is written, its text.
 *
 * @param {object} plan As the API tells it.
 * @param {Map<string, object>} live Rows of its jobs by id, newer than the plan's own.
 */
export function picture(plan, live) {
  const stored = new Map(plan.stages.map((stage) => [stage.name, stage]));
  const outline = stored.get("outline")?.result?.phases ?? [];
  const progress = live.get(plan.job_id)?.progress ?? plan.job?.progress;
  const phaseJobs = new Map(plan.phases.map((phase) => [`phase:${phase.number}`, live.get(phase.job_id) ?? phase]));
  const phases = outline.length > 0 ? outline.map((_, index) => `phase:${index + 1}`) : ["phases"];
  const asked = plan.request.ask && (stored.get("understand")?.result?.questions.length ?? 1) > 0;
  const lines = ["understand", ...(asked ? ["answers"] : []), "outline", ...phases, "risks", "review"].map((name) => {
    const stage = stored.get(name);
    const job = phaseJobs.get(name);
    const now = job ? job.progress : progress;
    const title = nameOf(name, outline);
    if (stage?.status === "completed") return { name, title, state: "completed", stage };
    if (name === "answers" && plan.question) return { name, title, state: "asking" };
    if (isOver(plan.status)) return { name, title, state: name === "answers" ? "left out" : "missing", stage, why: plan.missing.find((one) => one.stage === name)?.reason };
    if (stage?.status === "failed") return { name, title, state: "missing", stage, why: stage.reason };
    if (now?.stage === name) return { name, title, state: "running", text: now.message ?? "" };
    return { name, title, state: "pending", why: stage?.reason };
  });
  // what the writing has gone past is written, and will be read in a moment
  const at = progress?.stage === "finished" ? lines.length : lines.findIndex((line) => line.name === progress?.stage);
  return lines.map((line, index) => (line.state === "pending" && index < at && line.name !== "answers" && !isOver(plan.status) ? { ...line, state: "running", text: "" } : line));
}
