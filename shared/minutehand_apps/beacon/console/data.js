// Requests of the benchmark pages to the app's routes.

import { callRoute } from "../../api.js";
import { STATES as OF_JOBS } from "../../lib/states.js";

const call = callRoute;

export const beacon = {
  jobs: (workspaceId, cursor, signal) =>
    call("GET /api/v1/jobs", { query: { workspace_id: workspaceId, limit: 25, cursor }, signal }),
  job: (id, signal) => call("GET /api/v1/jobs/{id}", { params: { id }, signal }),
  submit: (body) => call("POST /api/v1/jobs", { body }),
  cancel: (id) => call("POST /api/v1/jobs/{id}/cancel", { params: { id } }),
  bundle: (id) => call("GET /api/v1/jobs/{id}/bundle", { params: { id } }),
  redrive: (workspaceId) =>
    call("POST /api/v1/outbox/redrive", { body: { workspace_id: workspaceId } }),
  keys: () => call("GET /api/v1/keys"),
};

/** The states of jobs and executions that the engine does not have. */
export const STATES = {
  ...OF_JOBS,
  created: { word: "Created", tone: "pending" },
  pending: { word: "Pending", tone: "pending" },
  processing: OF_JOBS.running,
};
/** Format version 1 as `v1`, and leave a version that starts with v unchanged. */
export const versionOf = ({ version }) => (version.startsWith("v") ? version : `v${version}`);
export const isOver = (status) => ["completed", "failed", "cancelled"].includes(status);

/** Return a spec's questions in order, as `{question_id, question, category}`. */
export const questionsOf = (spec) =>
  spec.questions.map((one, index) =>
    typeof one === "string"
      ? { question_id: `q${index + 1}`, question: one, category: null }
      : { question_id: one.id, question: one.question, category: one.category },
  );

/** Return the answers of an output in either of its two forms. */
export const responsesOf = (output) =>
  output ? ("data" in output.data ? output.data.data : output.data).responses : [];
