// How much a workspace may use, how long its jobs are kept; for people on call the limits of every type.

import { operator } from "../api.js";
import { duration } from "../lib/format.js";
import { isAll } from "../lib/scope.js";
import { usePolling, useRead } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { operations } from "../operations.js";
import { Tag } from "../parts/badge.js";
import { ActionButton } from "../parts/dialog.js";
import { Retention } from "../parts/retention.js";
import { Empty } from "../parts/states-of-view.js";
import { actionsOn } from "../parts/toasts.js";
import { Unread } from "../parts/unread.js";
import { WorkspaceLimits } from "../parts/workspace-limits.js";
import { column, heading, table } from "../parts/table.js";
import { pageHead } from "../parts/page-head.js";

/** @import { Workspace } from "../api.js" */
/** @import { TypeLimits } from "../operations.js" */

export const title = () => "Limits";

const EVERY_MS = 5000;

/** @param {{workspace: Workspace}} props */
export default function Limits({ workspace }) {
  return html`<div class="page">
    ${pageHead("Limits", workspace.name)}
    ${
      isAll(workspace)
        ? html`<${OfTypes} />`
        : html`
          <${WorkspaceLimits} workspace=${workspace} />
          <${Retention} workspaceId=${workspace.id} />
        `
    }
  </div>`;
}

/** Limits by type over all workspaces, each with its pause. */
function OfTypes() {
  const stats = useRead((signal) => operations.stats(null, 15, signal), []);
  usePolling(stats, EVERY_MS);
  const act = actionsOn(stats.refresh);
  if (!stats.value) return html`<${Unread} of=${stats} what="the limits" />`;
  const lines = stats.value.limits ?? [];
  const change = (/** @type {TypeLimits} */ { job_type: type }, /** @type {boolean} */ paused) =>
    act(
      paused ? "Could not pause" : "Could not resume",
      () => operator.pause(type, paused),
      `${type} is ${paused ? "paused" : "resumed"}`,
      paused && {
        title: `Pause ${type}?`,
        text: "No job of this type starts in any workspace until you resume. Running jobs continue.",
        action: "Pause the type",
        danger: true,
      },
    );
  return html`<section class="card" aria-labelledby="h-limits">
    <h2 id="h-limits">Limits by type</h2>
    ${
      lines.length === 0
        ? html`<${Empty} title="No job type has been registered" />`
        : table({ label: "Limits", rows: lines, key: (line) => line.job_type }, [
            heading("Type", (line) => line.job_type),
            column("Running", "num", (line) => line.running),
            column("At most", "num", (line) => line.max_concurrency ?? "no limit"),
            column("Use", (line) =>
              line.max_concurrency
                ? html`<meter
                  min="0"
                  max="1"
                  high="0.9"
                  value=${line.running / line.max_concurrency}
                  aria-label=${`${line.running} of ${line.max_concurrency}`}></meter>`
                : "",
            ),
            column("Per workspace", "num", (line) => line.workspace_concurrency ?? "–"),
            column("Per key", "num", (line) => line.key_concurrency ?? "–"),
            column("Rate", (line) =>
              line.rate_limit
                ? `${line.rate_limit} per ${duration(line.rate_per_seconds * 1000)}`
                : "–",
            ),
            column("State", (line) =>
              line.paused_at
                ? html`<${Tag} tone="waiting">Paused<//>`
                : html`<${Tag} tone="completed">Running<//>`,
            ),
            column(
              "Actions",
              "num",
              (line) => html`<${ActionButton}
                className="quiet"
                aria-label=${`${line.paused_at ? "Resume" : "Pause"} ${line.job_type}`}
                run=${() => change(line, !line.paused_at)}>
                ${line.paused_at ? "Resume" : "Pause"}
              <//>`,
            ),
          ])
    }
  </section>`;
}
