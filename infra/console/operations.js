// What the pages of operations ask of the outside, which no other page needs to load.

import { apiAddress, route, rpc, unreachable } from "./api.js";

/** @import { QueueStats } from "./lib/jobs/types.js" */
/** @import { Schedule, Webhook } from "./lib/routes.js" */

const listSchedules = route("GET /api/workspaces/{workspace_id}/schedules");
const listWebhooks = route("GET /api/workspaces/{workspace_id}/webhooks");

/**
 * @typedef {{job_type: string, running: number, max_concurrency: number | null, workspace_concurrency: number | null,
 *   key_concurrency: number | null, rate_limit: number | null, rate_per_seconds: number,
 *   paused_at: string | null}} TypeLimits Of a job type over all workspaces.
 */
/**
 * @typedef {{budget_per_second: number, per_second: number, held_last_hour: number, month: number,
 *   month_usd: number}} MessageNumbers What is sent to Realtime, against its budget.
 */
/**
 * @typedef {Omit<QueueStats, "limits"> & {limits: TypeLimits[] | null, messages: MessageNumbers | null}} Stats
 * @typedef {{status: string, checks?: Record<string, {verdict: "pass" | "warn" | "fail", detail?: string}>}} Health
 */

// without a workspace, statistics are of everything
export const operations = {
  /** @type {(workspaceId: string | null, minutes: number, signal: AbortSignal) => Promise<Stats>} */
  stats: (workspaceId, minutes, signal) =>
    rpc("queue_stats", { p_workspace_id: workspaceId, p_minutes: minutes }, signal),
  /**
   * Counts and times over time.
   *
   * @type {(workspaceId: string | null, minutes: number, isInternal: boolean, signal: AbortSignal)
   *   => Promise<import("./lib/series.js").Series>}
   */
  series(workspaceId, minutes, isInternal, signal) {
    const asked = { p_workspace_id: workspaceId, p_minutes: minutes, p_internal: isInternal };
    return rpc("queue_series", asked, signal);
  },
  /**
   * Readiness; "not ready" is an answer as well.
   *
   * @type {(signal: AbortSignal) => Promise<Health>}
   */
  async health(signal) {
    try {
      const answer = await fetch(apiAddress("/api/health/ready"), { cache: "no-store", signal });
      return await answer.json();
    } catch (error) {
      throw unreachable(error);
    }
  },
  /** Failed jobs by what went wrong: `{groups: [{job_type, error_fingerprint, jobs, last_at, latest_id, …}], more}`. */
  deadLetters: (/** @type {string} */ workspaceId, /** @type {AbortSignal} */ signal) =>
    rpc("dead_letters", { p_workspace_id: workspaceId }, signal),
  pause: route("POST /api/workspaces/{workspace_id}/pause"),
  resume: route("POST /api/workspaces/{workspace_id}/resume"),
  /** @type {(workspaceId: string) => Promise<Schedule[]>} */
  schedules: async (workspaceId) => (await listSchedules(workspaceId)).schedules,
  putSchedule: route("PUT /api/workspaces/{workspace_id}/schedules/{name}"),
  deleteSchedule: route("DELETE /api/workspaces/{workspace_id}/schedules/{name}"),
  /** The next runs of `{schedule: name}` or `{cron, timezone}`. */
  nextRuns: route("GET /api/workspaces/{workspace_id}/next-runs"),
  /** @type {(workspaceId: string) => Promise<Webhook[]>} */
  webhooks: async (workspaceId) => (await listWebhooks(workspaceId)).webhooks,
  createWebhook: route("POST /api/workspaces/{workspace_id}/webhooks"),
  changeWebhook: route("PATCH /api/workspaces/{workspace_id}/webhooks/{webhook_id}"),
  rotateSecret: route("POST /api/workspaces/{workspace_id}/webhooks/{webhook_id}/rotate-secret"),
  deleteWebhook: route("DELETE /api/workspaces/{workspace_id}/webhooks/{webhook_id}"),
  deliveries: route("GET /api/workspaces/{workspace_id}/webhooks/{webhook_id}/deliveries"),
};
