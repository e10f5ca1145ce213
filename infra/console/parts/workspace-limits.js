// How much of the whole a workspace may use at once, and how much it uses now.

import { number } from "../lib/format.js";
import { usePolling, useRead } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { operations } from "../operations.js";
import { notify, notifyFailure } from "./toasts.js";
import { Unread } from "./unread.js";

const EVERY_MS = 5000;
const least = (/** @type {(number | null)[]} */ ...limits) =>
  Math.min(...limits.map((limit) => limit ?? Infinity));

/** @param {{workspace: import("../api.js").Workspace}} props */
export function WorkspaceLimits({ workspace }) {
  const limits = useRead(() => operations.limits(workspace.id), [workspace.id]);
  const [own, setOwn] = useState(/** @type {string | null} */ (null));
  usePolling(limits, EVERY_MS);
  if (!limits.value)
    return html`<section class="card" aria-label="Limits">
      ${html`<${Unread} of=${limits} what="the limits" />`}
    </section>`;
  const {
    running,
    max_running: most,
    own_max_running: ownMost,
    max_pending: pending,
    default_max_pending: usual,
    weight,
  } = limits.value;
  const limit = least(most, ownMost);
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const text = String(own ?? "").trim();
    try {
      await operations.setLimits(workspace.id, {
        body: { own_max_running: text === "" ? null : Number(text) },
      });
      notify(
        text === ""
          ? "The workspace's own limit is lifted"
          : `At most ${text} jobs of ${workspace.name} run at once`,
      );
      setOwn(null);
      limits.refresh();
    } catch (error) {
      notifyFailure("Could not change", error);
    }
  };
  return html`<section class="card bar" aria-label="Limits">
    <span class="num">
      ${Number.isFinite(limit) ? `Running: ${number(running)} of ${number(limit)}` : `Running: ${number(running)} (no limit)`}
    </span>
    ${
      Number.isFinite(limit) &&
      limit > 0 &&
      html`<meter
        min="0"
        max=${limit}
        high=${limit * 0.9}
        value=${running}
        aria-label=${`${running} of ${limit} running`}></meter>`
    }
    <span class="muted num">
      Pending: at most ${number(pending ?? usual)}
      ${weight === 1 ? "" : `, weighs ${number(weight)} when workspaces compete for workers`}
    </span>
    <span class="spacer"></span>
    ${
      workspace.role === "manager" &&
      html`<form class="bar" onSubmit=${save}>
        <label class="field-inline">
          <span>Own limit</span>
          <input
            type="number"
            min="0"
            max="100000"
            step="1"
            placeholder="none"
            value=${own ?? ownMost ?? ""}
            onInput=${(/** @type {{target: HTMLInputElement}} */ event) => setOwn(event.target.value)} />
        </label>
        <button type="submit" disabled=${own === null}>Set</button>
      </form>`
    }
  </section>`;
}
