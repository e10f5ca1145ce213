// What the benchmark pages read and do, all by the app's own routes.

import { request } from "../../api.js";

const query = (workspaceId, more) => ({ query: { workspace_id: workspaceId, ...more } });

export const beacon = {
  specs: (workspaceId, signal) => request("GET", "/api/beacon/specs", { ...query(workspaceId, { limit: 50 }), signal }),
  spec: (id, signal) => request("GET", `/api/beacon/specs/${id}`, { signal }),
  createSpec: (spec) => request("POST", "/api/beacon/specs", { body: spec }),
  runs: (workspaceId, after, signal) => request("GET", "/api/beacon/runs", { ...query(workspaceId, { limit: 25, after }), signal }),
  run: (id, signal) => request("GET", `/api/beacon/runs/${id}`, { signal }),
  start: (specId) => request("POST", `/api/beacon/specs/${specId}/runs`, { headers: { "Idempotency-Key": crypto.randomUUID?.() ?? String(Math.random()) } }),
  deliveries: async (runId, signal) => (await request("GET", `/api/beacon/runs/${runId}/deliveries`, { signal })).events,
  bundle: (runId, signal) => request("GET", `/api/beacon/runs/${runId}/bundle`, { signal }),
  keys: () => request("GET", "/api/beacon/keys"),
  verify: (bundle) => request("POST", "/api/beacon/receipts/verify", { body: bundle }),
};

/** The states of runs and regions in the words of jobs, where those have one. */
export const STATES = {
  pending: { word: "Pending", tone: "pending" },
  running: { word: "Running", tone: "processing" },
  completed: { word: "Completed", tone: "completed" },
  partial: { word: "Partial", tone: "waiting" },
  failed: { word: "Failed", tone: "failed" },
  cancelled: { word: "Cancelled", tone: "cancelled" },
  lost: { word: "Lost", tone: "failed" },
};
export const isOver = (status) => !["pending", "running"].includes(status);

export const VERDICTS = { passed: { word: "Thresholds kept", tone: "completed" }, failed: { word: "Thresholds missed", tone: "failed" } };

/** 340 µs, 12.3 ms, 1.20 s, from microseconds; a dash for none. */
export function latency(us) {
  if (!Number.isFinite(us)) return "–";
  if (us < 1000) return `${us} µs`;
  if (us < 1_000_000) return `${(us / 1000).toFixed(us < 100_000 ? 1 : 0)} ms`;
  return `${(us / 1_000_000).toFixed(2)} s`;
}
