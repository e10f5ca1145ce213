// What the pages of operations ask of the outside, which no other page needs to load.

import { ALL } from "./lib/scope.js";
import { apiAddress, callRoute, data, unreachable, unwrap } from "./api.js";

/** @import { Call, people } from "./api.js" */
/** @import { QueueStats } from "./lib/jobs/types.js" */
/** @import { AlertBody, Alerts, Routes, Schedule, Webhook } from "./lib/routes.js" */

/** @type {Call<Routes>} */
const call = callRoute;
const TIMEOUT_MS = 20_000;

/** @param {string} workspaceId */
const of = (workspaceId) => ({ workspace_id: workspaceId });

/** What operators read of all workspaces at once. */
const ofAll = (
  /** @type {string} */ name,
  /** @type {AbortSignal | undefined} */ signal = undefined,
) =>
  unwrap(
    data()
      .rpc(name, { p_workspace_id: null })
      .abortSignal(signal ?? AbortSignal.timeout(20_000)),
  );

export const alerts = {
  /** @type {(workspaceId: string, signal: AbortSignal) => Promise<Alerts>} */
  list: (workspaceId, signal) =>
    workspaceId === ALL
      ? ofAll("list_alerts", signal)
      : call("GET /api/workspaces/{workspace_id}/alerts", { places: of(workspaceId), signal }),
  put: (
    /** @type {string} */ workspaceId,
    /** @type {AlertBody & {name: string}} */ { name, ...alert },
  ) =>
    call("PUT /api/workspaces/{workspace_id}/alerts/{name}", {
      places: { ...of(workspaceId), name },
      body: alert,
    }),
  remove: (/** @type {string} */ workspaceId, /** @type {string} */ name) =>
    call("DELETE /api/workspaces/{workspace_id}/alerts/{name}", {
      places: { ...of(workspaceId), name },
    }),
  /** Addresses of the workspace's members, in order. */
  async addresses(/** @type {string} */ workspaceId, /** @type {typeof people} */ readPeople) {
    const members = await unwrap(
      data().from("workspace_members").select("user_id").eq("workspace_id", workspaceId),
    );
    return Object.values(
      await readPeople(members.map((/** @type {{user_id: string}} */ member) => member.user_id)),
    ).sort();
  },
};

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

export const operations = {
  /** Counts, percentiles, pauses of a workspace, or of everything without one. */
  stats: (
    /** @type {string | null} */ workspaceId,
    /** @type {number} */ minutes,
    /** @type {AbortSignal} */ signal,
  ) =>
    /** @type {Promise<Stats>} */ (
      unwrap(
        data()
          .rpc("queue_stats", { p_workspace_id: workspaceId, p_minutes: minutes })
          .abortSignal(signal),
      )
    ),
  /** Counts and times over time: `{now, since, step_seconds, live, points}`; of everything without a workspace. */
  series: (
    /** @type {string | null} */ workspaceId,
    /** @type {number} */ minutes,
    /** @type {boolean} */ isInternal,
    /** @type {AbortSignal} */ signal,
  ) =>
    /** @type {Promise<import("./lib/series.js").Series>} */ (
      unwrap(
        data()
          .rpc("queue_series", {
            p_workspace_id: workspaceId,
            p_minutes: minutes,
            p_internal: Boolean(isInternal),
          })
          .abortSignal(signal),
      )
    ),
  /** Which code served jobs in the last week, the latest first: `{deploys}`; of everything without a workspace. */
  deploys: (/** @type {string | null} */ workspaceId, /** @type {AbortSignal} */ signal) =>
    /** @type {Promise<{deploys: import("./lib/jobs/types.js").Deploy[]}>} */ (
      unwrap(data().rpc("list_deploys", { p_workspace_id: workspaceId }).abortSignal(signal))
    ),
  /**
   * Readiness; "not ready" is an answer as well.
   *
   * @returns {Promise<Health>}
   */
  async health(/** @type {AbortSignal} */ signal) {
    try {
      const answer = await fetch(apiAddress("/api/health/ready"), {
        cache: "no-store",
        signal: signal ?? AbortSignal.timeout(TIMEOUT_MS),
      });
      return await answer.json();
    } catch (error) {
      throw unreachable(error);
    }
  },
  /** Failed jobs by what went wrong: `{groups: [{job_type, error_fingerprint, jobs, last_at, latest_id, …}], more}`. */
  deadLetters: (/** @type {string} */ workspaceId, /** @type {AbortSignal} */ signal) =>
    unwrap(data().rpc("dead_letters", { p_workspace_id: workspaceId }).abortSignal(signal)),
  pause: (
    /** @type {string} */ workspaceId,
    /** @type {boolean} */ paused,
    /** @type {string} */ reason,
  ) =>
    paused
      ? call("POST /api/workspaces/{workspace_id}/pause", {
          places: of(workspaceId),
          body: { reason: reason || null },
        })
      : call("POST /api/workspaces/{workspace_id}/resume", { places: of(workspaceId), body: {} }),
  limits: (/** @type {string} */ workspaceId) =>
    call("GET /api/workspaces/{workspace_id}/limits", { places: of(workspaceId) }),
  setLimits: (
    /** @type {string} */ workspaceId,
    /** @type {Routes["PATCH /api/workspaces/{workspace_id}/limits"]["body"]} */ limits,
  ) =>
    call("PATCH /api/workspaces/{workspace_id}/limits", { places: of(workspaceId), body: limits }),
  members: (/** @type {string} */ workspaceId, /** @type {AbortSignal} */ signal) =>
    call("GET /api/workspaces/{workspace_id}/members", { places: of(workspaceId), signal }),
  setMember: (
    /** @type {string} */ workspaceId,
    /** @type {string} */ email,
    /** @type {"manager" | "member"} */ role,
  ) =>
    call("PUT /api/workspaces/{workspace_id}/members/{email}", {
      places: { ...of(workspaceId), email },
      body: { role },
    }),
  removeMember: (/** @type {string} */ workspaceId, /** @type {string} */ member) =>
    call("DELETE /api/workspaces/{workspace_id}/members/{member}", {
      places: { ...of(workspaceId), member },
    }),
  retention: (/** @type {string} */ workspaceId, /** @type {AbortSignal} */ signal) =>
    call("GET /api/workspaces/{workspace_id}/retention", { places: of(workspaceId), signal }),
  /** @type {(workspaceId: string) => Promise<Schedule[]>} */
  schedules: async (workspaceId) =>
    (workspaceId === ALL
      ? await ofAll("list_schedules")
      : await call("GET /api/workspaces/{workspace_id}/schedules", { places: of(workspaceId) })
    ).schedules,
  putSchedule: (/** @type {string} */ workspaceId, /** @type {any} */ { name, ...schedule }) =>
    call("PUT /api/workspaces/{workspace_id}/schedules/{name}", {
      places: { ...of(workspaceId), name },
      body: schedule,
    }),
  deleteSchedule: (/** @type {string} */ workspaceId, /** @type {string} */ name) =>
    call("DELETE /api/workspaces/{workspace_id}/schedules/{name}", {
      places: { ...of(workspaceId), name },
    }),
  /** The next runs of `{schedule: name}` or `{cron, timezone}`. */
  nextRuns: async (
    /** @type {string} */ workspaceId,
    /** @type {Routes["GET /api/workspaces/{workspace_id}/next-runs"]["query"]} */ wanted,
    /** @type {AbortSignal} */ signal,
  ) =>
    (
      await call("GET /api/workspaces/{workspace_id}/next-runs", {
        places: of(workspaceId),
        query: wanted,
        signal,
      })
    ).runs,
  /** @type {(workspaceId: string) => Promise<Webhook[]>} */
  webhooks: async (workspaceId) =>
    (workspaceId === ALL
      ? await ofAll("list_webhooks")
      : await call("GET /api/workspaces/{workspace_id}/webhooks", { places: of(workspaceId) })
    ).webhooks,
  createWebhook: (
    /** @type {string} */ workspaceId,
    /** @type {Routes["POST /api/workspaces/{workspace_id}/webhooks"]["body"]} */ webhook,
  ) =>
    call("POST /api/workspaces/{workspace_id}/webhooks", {
      places: of(workspaceId),
      body: webhook,
    }),
  changeWebhook: (
    /** @type {string} */ workspaceId,
    /** @type {string} */ id,
    /** @type {Routes["PATCH /api/workspaces/{workspace_id}/webhooks/{webhook_id}"]["body"]} */ changes,
  ) =>
    call("PATCH /api/workspaces/{workspace_id}/webhooks/{webhook_id}", {
      places: { ...of(workspaceId), webhook_id: id },
      body: changes,
    }),
  rotateSecret: (/** @type {string} */ workspaceId, /** @type {string} */ id) =>
    call("POST /api/workspaces/{workspace_id}/webhooks/{webhook_id}/rotate-secret", {
      places: { ...of(workspaceId), webhook_id: id },
    }),
  deleteWebhook: (/** @type {string} */ workspaceId, /** @type {string} */ id) =>
    call("DELETE /api/workspaces/{workspace_id}/webhooks/{webhook_id}", {
      places: { ...of(workspaceId), webhook_id: id },
    }),
  deliveries: async (
    /** @type {string} */ workspaceId,
    /** @type {string} */ id,
    /** @type {AbortSignal} */ signal,
  ) =>
    (
      await call("GET /api/workspaces/{workspace_id}/webhooks/{webhook_id}/deliveries", {
        places: { ...of(workspaceId), webhook_id: id },
        query: { limit: 50 },
        signal,
      })
    ).jobs,
};
