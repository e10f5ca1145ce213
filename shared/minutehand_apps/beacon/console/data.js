// Requests that the benchmark pages send to the app's routes.

import { callRoute } from "../../api.js";
import { STATES as OF_JOBS } from "../../lib/states.js";

const call = callRoute;

export const beacon = {
  jobs: (workspaceId, cursor, signal) =>
    call("GET /api/v1/jobs", { query: { workspace_id: workspaceId, limit: 25, cursor }, signal }),
  job: (id, signal) => call("GET /api/v1/jobs/{id}", { params: { id }, signal }),
  submit: (body) => call("POST /api/v1/jobs", { body }),
  cancel: (id) => call("POST /api/v1/jobs/{id}/cancel", { params: { id } }),
  share: (id, shared) => call("PUT /api/v1/jobs/{id}/share", { params: { id }, body: { shared } }),
  bundle: (id) => call("GET /api/v1/jobs/{id}/bundle", { params: { id } }),
  redrive: (workspaceId) =>
    call("POST /api/v1/outbox/redrive", { body: { workspace_id: workspaceId } }),
  keys: () => call("GET /api/v1/keys"),
};

/** The states of jobs and executions that the engine does not know. */
export const STATES = {
  ...OF_JOBS,
  created: { word: "Created", tone: "pending" },
  pending: { word: "Pending", tone: "pending" },
  processing: OF_JOBS.running,
};
/** Format the version 1 as `v1`. A version that starts with v stays unchanged. */
export const versionOf = ({ version }) => (version.startsWith("v") ? version : `v${version}`);
export const isOver = (status) => ["completed", "failed", "cancelled"].includes(status);

/** Return the questions of a job spec in order, as `{question_id, question, category}`. */
export const questionsOf = (spec) =>
  spec.questions.map((one, index) =>
    typeof one === "string"
      ? { question_id: `q${index + 1}`, question: one, category: null }
      : { question_id: one.id, question: one.question, category: one.category },
  );

/** Return the answers in an output. The answers are in `data.data` or in `data`. */
export const responsesOf = (output) =>
  output ? ("data" in output.data ? output.data.data : output.data).responses : [];
