// Requests from the benchmark pages to the routes of the beacon app.

import { callRoute as call, STATES as OF_JOBS } from "../../app.js";

export const beacon = {
  jobs: (workspaceId, cursor, signal) =>
    call("GET /api/v1/jobs", { query: { workspace_id: workspaceId, limit: 25, cursor }, signal }),
  job: (id, signal) => call("GET /api/v1/jobs/{id}", { params: { id }, signal }),
  submit: (body) => call("POST /api/v1/jobs", { body }),
  cancel: (id) => call("POST /api/v1/jobs/{id}/cancel", { params: { id } }),
  share: (id, shared) => call("PUT /api/v1/jobs/{id}/share", { params: { id }, body: { shared } }),
  bundle: (id) => call("GET /api/v1/jobs/{id}/bundle", { params: { id } }),
  repeatDaily: ({ id, workspace_id, jobspec_id }) =>
    call("PUT /api/workspaces/{workspace_id}/schedules/{name}", {
      params: { workspace_id, name: `Benchmark ${jobspec_id}` },
      body: { cron: "0 6 * * *", job_type: "beacon_repeat", payload: { job_id: id } },
    }),
  redrive: (workspaceId) =>
    call("POST /api/v1/outbox/redrive", { body: { workspace_id: workspaceId } }),
  keys: () => call("GET /api/v1/keys"),
};

/**
 * Words and colours for the states of jobs and executions, including states that the job queue does
 * not know.
 */
export const STATES = {
  ...OF_JOBS,
  created: { word: "Created", tone: "pending" },
  pending: { word: "Pending", tone: "pending" },
  processing: OF_JOBS.running,
};
/**
 * Format a version such as 1 as `v1`. The time that a daily run appends to the version is omitted.
 */
export const versionOf = ({ version }) => version.replace(/^v?/, "v").replace(/@\d.*/, "");
export const isOver = (status) => ["completed", "failed", "cancelled"].includes(status);

/** Return the questions of a job spec in their order, as `{question_id, question, category}`. */
export const questionsOf = (spec) =>
  spec.questions.map((one, index) =>
    typeof one === "string"
      ? { question_id: `q${index + 1}`, question: one, category: null }
      : { question_id: one.id, question: one.question, category: one.category },
  );

/**
 * Return the answers in the output of an execution. The output contains the answers in `data.data`
 * or in `data`.
 */
export const responsesOf = (output) =>
  output ? ("data" in output.data ? output.data.data : output.data).responses : [];
