// What the pages of plans read and do, all by the app's own routes; and a plan's events, live.

import { callRoute, filled, request, supabase } from "../../api.js";

/** @import { Call } from "../../api.js" */
/** @import { PlanEvent, Routes } from "./routes.js" */

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
  regenerate: (/** @type {string} */ id, /** @type {string} */ stage) =>
    call("POST /api/plans/{plan_id}/regenerate", { places: at(id), body: { stage } }),
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
export const isOver = (/** @type {string} */ status) =>
  ["completed", "failed", "cancelled"].includes(status);

const POLL_MS = 2_000;
const SAFETY_MS = 30_000;

/**
 * Follow a plan: its events from the first one on, in order, without gaps.
 *
 * Realtime says that there are updates; the log after the last `seq` is read. While the topic
 * cannot be joined, the log is polled.
 *
 * @param {{plan_id: string, realtime_topic: string}} plan
 * @param {{onEvents: (events: PlanEvent[]) => void, onFreshness: (value: string) => void, onGone: () => void}} on
 */
export function watchPlan(plan, { onEvents, onFreshness, onGone }) {
  const client = supabase();
  let after = 0;
  let closed = false;
  let reading = false;
  let again = false;
  let joined = false;
  let held = false; // messages are held back to stay within Realtime's plan, until a read finds no more
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const schedule = (/** @type {number} */ wait) => {
    clearTimeout(timer);
    if (!closed) timer = setTimeout(read, wait);
  };
  async function read() {
    if (reading) {
      again = true;
      return;
    }
    reading = true;
    try {
      let page;
      let isNews = false;
      do {
        again = false;
        page = await plans.events(plan.plan_id, after);
        if (closed) return;
        if (!page) break; // 204: the plan has ended, and all was read
        if (page.events.length > 0) {
          isNews = true;
          after = page.events[page.events.length - 1].seq;
          onEvents(page.events);
        }
      } while (page?.more || again);
      held &&= isNews;
      if (held) onFreshness("catching-up");
      else onFreshness(joined ? "live" : "polling");
    } catch (error) {
      if (closed) return;
      if (error.status === 404) {
        close();
        onGone();
        return;
      }
      onFreshness("polling");
    } finally {
      reading = false;
    }
    schedule(joined && !held ? SAFETY_MS : POLL_MS);
  }
  const channel = client.channel(plan.realtime_topic, { config: { private: true } });
  const onMessage = (/** @type {{event: string, payload?: any}} */ { event, payload }) => {
    if (payload?.look_again === true) {
      held = true;
      onFreshness("catching-up");
    }
    if (event !== "plan_deleted") schedule(100);
    else if (payload.plan_id === plan.plan_id) {
      close();
      onGone();
    } // to read on would be a 404
  };
  channel.on("broadcast", { event: "*" }, onMessage).subscribe((status) => {
    joined = status === "SUBSCRIBED";
    schedule(0); // what came before the join came over no channel
  });
  const close = () => {
    closed = true;
    clearTimeout(timer);
    client.removeChannel(channel);
  };
  schedule(0);
  return { close };
}

/**
 * Stages as bars of a timeline, in shares of the time from the first start to the last end.
 *
 * @param {{name: string, started_at: string | null, ended_at: string | null}[]} stages As the API returns them.
 * @param {number} now Milliseconds, for stages that are running.
 */
export function timeline(stages, now) {
  const times = stages
    .filter((stage) => stage.started_at)
    .map((stage) => ({
      name: stage.name,
      from: Date.parse(stage.started_at ?? ""),
      to: stage.ended_at ? Date.parse(stage.ended_at) : now,
    }));
  const first = Math.min(...times.map((one) => one.from));
  const span = Math.max(1, Math.max(...times.map((one) => one.to)) - first);
  return new Map(
    times.map(({ name, from, to }) => [
      name,
      { left: (100 * (from - first)) / span, width: Math.max(1, (100 * (to - from)) / span) },
    ]),
  );
}
