// What the pages of plans read and do, all by the app's own routes.

import { callRoute, filled, request } from "../../api.js";
import { extentOf, placeOf } from "../../lib/waterfall.js";

/** @import { Call } from "../../api.js" */
/** @import { Routes } from "./routes.js" */

/** @type {Call<Routes>} */
const call = callRoute;
const at = (/** @type {string} */ id) => ({ plan_id: id });
const JSON_ONLY = { Accept: "application/json" };

export const plans = {
  /**
   * @param {string} workspaceId
   * @param {string | null} [after]
   * @param {AbortSignal} [signal]
   */
  list: (workspaceId, after, signal) =>
    call("GET /api/plans", { query: { workspace_id: workspaceId, limit: 25, after }, signal }),
  create: (/** @type {Routes["POST /api/plans"]["body"]} */ plan) =>
    call("POST /api/plans", { body: plan }),
  read: (/** @type {string} */ id, /** @type {AbortSignal} */ signal) =>
    call("GET /api/plans/{plan_id}", { places: at(id), signal }),
  events: (/** @type {string} */ id, /** @type {number} */ after) =>
    call("GET /api/plans/{plan_id}/stream", {
      places: at(id),
      query: { after },
      headers: JSON_ONLY,
    }),
  report: (/** @type {string} */ id, /** @type {AbortSignal} */ signal) =>
    call("GET /api/plans/{plan_id}/report", { places: at(id), headers: JSON_ONLY, signal }),
  files: (/** @type {string} */ id, /** @type {AbortSignal} */ signal) =>
    call("GET /api/plans/{plan_id}/files", { places: at(id), signal }),
  file: (/** @type {string} */ id, /** @type {string} */ name) =>
    request(...filled("GET /api/plans/{plan_id}/files/{name}", { ...at(id), name }), {
      as: "blob",
    }),
  zip: (/** @type {string} */ id) =>
    request(...filled("GET /api/plans/{plan_id}/zip", at(id)), { as: "blob" }),
  cancel: (/** @type {string} */ id) =>
    call("POST /api/plans/{plan_id}/cancel", { places: at(id) }),
  restart: (/** @type {string} */ id) =>
    call("POST /api/plans/{plan_id}/restart", { places: at(id) }),
  /**
   * @param {string} id
   * @param {Routes["POST /api/plans/{plan_id}/regenerate"]["body"]} body
   */
  regenerate: (id, body) => call("POST /api/plans/{plan_id}/regenerate", { places: at(id), body }),
  remove: (/** @type {string} */ id) => call("DELETE /api/plans/{plan_id}", { places: at(id) }),
};

export const SPEEDS = /** @type {const} */ ([
  { value: "fast_but_skip_details", label: "Fast", hint: "15 stages, without details" },
  {
    value: "balanced_speed_and_detail",
    label: "Balanced",
    hint: "with resource load, what-if and communication",
  },
  {
    value: "all_details_but_slow",
    label: "All details",
    hint: "with steps, sensitivity and quality",
  },
]);
export const speedOf = (/** @type {string} */ value) =>
  SPEEDS.find((speed) => speed.value === value)?.label ?? value;

export const STATES = {
  pending: { word: "Pending", tone: "pending" },
  running: { word: "Running", tone: "processing" },
  completed: { word: "Completed", tone: "completed" },
  failed: { word: "Failed", tone: "failed" },
  cancelled: { word: "Cancelled", tone: "cancelled" },
  not_run: { word: "Not run", tone: "cancelled" },
};
export const shortened = (/** @type {string} */ text, /** @type {number} */ most) =>
  text.length > most ? `${text.slice(0, most - 1)}…` : text;
export const isOver = (/** @type {string} */ status) =>
  ["completed", "failed", "cancelled"].includes(status);

/**
 * Stages as bars of a timeline, in shares of the time from the first start to the last end.
 *
 * @param {{name: string, started_at: string | null, ended_at: string | null}[]} stages As the API returns them.
 * @param {number} now Milliseconds, for stages that are running.
 */
export function timeline(stages, now) {
  const spans = stages
    .filter((stage) => stage.started_at)
    .map((stage) => ({
      name: stage.name,
      from: Date.parse(stage.started_at ?? ""),
      to: stage.ended_at ? Date.parse(stage.ended_at) : now,
    }));
  const whole = extentOf(spans);
  return new Map(spans.map((span) => [span.name, placeOf(span, whole)]));
}
