// What the benchmark pages read and do, all by the app's own routes.

import { request } from "../../api.js";

const at = (id, more = "") => `/api/v1/jobs/${encodeURIComponent(id)}${more}`;

export const beacon = {
  jobs: (workspaceId, cursor, signal) =>
    request("GET", "/api/v1/jobs", {
      query: { workspace_id: workspaceId, limit: 25, cursor },
      signal,
    }),
  job: (id, signal) => request("GET", at(id), { signal }),
  submit: (body) => request("POST", "/api/v1/jobs", { body }),
  cancel: (id) => request("POST", at(id, "/cancel")),
  bundle: (id, signal) => request("GET", at(id, "/bundle"), { signal }),
  deadLetters: async (workspaceId, signal) =>
    (
      await request("GET", "/api/v1/outbox", {
        query: { workspace_id: workspaceId, status: "dead", limit: 20 },
        signal,
      })
    ).messages,
  redrive: (workspaceId) =>
    request("POST", "/api/v1/outbox/redrive", { body: { workspace_id: workspaceId } }),
  keys: () => request("GET", "/api/v1/keys"),
  verify: (bundle) => request("POST", "/api/v1/receipts/verify", { body: bundle }),
};

/** The states of jobs and executions, with the tones of the engine's own. */
export const STATES = {
  created: { word: "Created", tone: "pending" },
  queued: { word: "Queued", tone: "pending" },
  pending: { word: "Pending", tone: "pending" },
  processing: { word: "Running", tone: "processing" },
  completed: { word: "Completed", tone: "completed" },
  failed: { word: "Failed", tone: "failed" },
  cancelled: { word: "Cancelled", tone: "cancelled" },
};
export const isOver = (status) => ["completed", "failed", "cancelled"].includes(status);

/** A spec's questions as they are put: `{question_id, question, category}`, in order. */
export const asked = (spec) =>
  spec.questions.map((one, index) =>
    typeof one === "string"
      ? { question_id: `q${index + 1}`, question: one, category: null }
      : { question_id: one.id, question: one.question, category: one.category },
  );
