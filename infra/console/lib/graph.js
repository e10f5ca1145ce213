// A graph of stages: what a replay from one keeps, and where each is drawn. Pure: drawn by parts/stage-graph.js.

/** @import { Step } from "./jobs/types.js" */
/** @typedef {Record<string, readonly string[]>} Graph What each stage comes after. */
/** @typedef {{name: string, after: readonly string[], column: number, row: number, word: string, tone: string}} Placed */

/** The steps that a replay from one keeps, as `queue.kept_steps` says: of its graph all but it and what comes after. */
export function keptSteps(/** @type {Step[]} */ steps, /** @type {string} */ from) {
  const graph = /** @type {Graph} */ (
    steps.find((step) => step.kind === "graph" && from in Object(step.result))?.result ?? {}
  );
  const again = new Set([from]);
  for (const stage of again) // grows as it is walked
    for (const [name, after] of Object.entries(graph)) if (after.includes(stage)) again.add(name);
  const end = steps.findIndex((step) => step.name === from);
  return steps.filter((step, n) => !again.has(step.name) && (n < end || step.name in graph));
}

/** @type {Record<string, {word: string, tone: string}>} */
const BEGUN = {
  processing: { word: "Running", tone: "processing" },
  pending: { word: "To run", tone: "pending" },
  waiting: { word: "Waiting", tone: "waiting" },
  cancelled: { word: "Cancelled", tone: "cancelled" },
};

/**
 * The stages, each in the column behind all it comes after. What is ready and not done runs while the job does, and
 * has failed when the job has ended.
 *
 * @param {Graph} graph
 * @param {Set<string>} done Names of finished steps.
 * @param {string} status The job's.
 * @returns {Placed[]}
 */
export function placed(graph, done, status) {
  /** @type {Record<string, number>} */
  const columns = {};
  const columnOf = (/** @type {string} */ name) => {
    if (columns[name] === undefined) {
      columns[name] = 0; // a circle would end here
      columns[name] = Math.max(0, ...(graph[name] ?? []).map((before) => 1 + columnOf(before)));
    }
    return columns[name];
  };
  /** @type {number[]} */
  const rows = [];
  const stages = Object.entries(graph).map(([name, after]) => {
    const column = columnOf(name);
    const row = (rows[column] = (rows[column] ?? -1) + 1);
    const isReady = after.every((before) => done.has(before));
    const state = done.has(name)
      ? { word: "Done", tone: "completed" }
      : isReady
        ? (BEGUN[status] ?? { word: "Failed", tone: "failed" })
        : { word: "Not begun", tone: "pending" };
    return { name, after, column, row, ...state };
  });
  return stages.sort((a, b) => a.column - b.column || a.row - b.row); // as it is read
}
