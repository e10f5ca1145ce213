// Break it: hurt this machine's stack on purpose and watch it heal on the same page. Local only.

import { settings } from "../api.js";
import { setQuery, useQuery } from "../lib/router.js";
import { createStore, usePolling, useRead, useStore } from "../lib/store.js";
import { html, useEffect } from "../lib/ui.js";
import { operations } from "../operations.js";
import { Tag } from "../parts/badge.js";
import { ActionButton } from "../parts/dialog.js";
import { JobMonitor } from "../parts/job-monitor.js";
import { notify, notifyFailure } from "../parts/toasts.js";
import { pageHead } from "../parts/page-head.js";
import NotFound from "./not-found.js";

/** @import { Workspace } from "../api.js" */
/** @import { App, BreakIt as Way } from "../app.js" */
/** @import { Filter } from "../parts/filters.js" */

export const title = () => "Break it";

const WAYS = [
  [
    "kill-worker",
    "Kill the worker",
    "Its attempts end as lost and its jobs run again; what it had settled stays settled.",
  ],
  [
    "freeze-worker",
    "Freeze the worker",
    "It comes back as a zombie: nothing it then sends about expired jobs is stored.",
  ],
  ["restart-postgres", "Crash Postgres", "Committed jobs are all there after the recovery."],
  ["kill-realtime", "Kill Realtime", "Watchers poll, say so, and miss nothing."],
  [
    "drop-messages",
    "Drop Realtime messages",
    "For 20 s nothing is broadcast; watchers find what they miss by reading.",
  ],
  [
    "expire-leases",
    "Expire all leases",
    "Running jobs are reclaimed; their workers learn that the lease is lost.",
  ],
  ["jump-clock", "Jump the clock", "Delayed jobs and retries are due now."],
];
const EVERY_MS = 1000;

/** What was done and what became of the API since; kept while the console is open. */
const history = createStore(
  /** @type {Array<{at: Date, text: string, tone: string, key: number}>} */ ([]),
);
const note = (/** @type {string} */ text, /** @type {string} */ tone) =>
  history.set((lines) =>
    [{ at: new Date(), text, tone, key: lines.length }, ...lines].slice(0, 30),
  );

async function breakBy(/** @type {string} */ way) {
  const answer = await fetch(`/local/break/${way}`, {
    method: "POST",
    headers: { "X-Break-Token": /** @type {string} */ (settings().breakToken) },
    signal: AbortSignal.timeout(20_000),
  });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body.done;
}

/** Asks for readiness each second and writes down when the answer changes. */
function useReadiness() {
  const health = useRead(
    (signal) => operations.health(AbortSignal.any([signal, AbortSignal.timeout(2500)])),
    [],
  );
  const word = health.error ? "away" : (health.value?.status ?? "…");
  usePolling(health, EVERY_MS);
  useEffect(() => {
    if (word !== "…")
      note(
        word === "away" ? "The API does not answer." : `Readiness: ${word.replace("_", " ")}.`,
        word === "ready" ? "completed" : word === "degraded" ? "waiting" : "failed",
      );
  }, [word]);
  return word;
}

/** @param {{workspace: Workspace, apps: App[]}} props */
export default function BreakIt({ workspace, apps }) {
  const query = useQuery();
  if (!settings().breakToken) return html`<${NotFound} />`;
  const filter = {
    status: query.get("status") || undefined,
    search: query.get("search") || undefined,
    job_type: query.get("job_type") || undefined,
  };
  return html`<div class="page">
    ${pageHead("Break it", "this machine's stack only")}
    <${Ways} workspace=${workspace} more=${apps.flatMap((app) => app.breakIt ?? [])} />
    <div class="break-jobs">
      <${JobMonitor}
        workspaceId=${workspace.id}
        filter=${filter}
        onFilter=${(/** @type {Filter} */ changes) => setQuery(changes)} />
    </div>
  </div>`;
}

/** @param {{workspace: Workspace, more: Way[]}} props */
function Ways({ workspace, more }) {
  const word = useReadiness();
  const lines = useStore(history);
  const run = async (/** @type {string} */ label, /** @type {() => Promise<string>} */ act) => {
    try {
      const done = await act();
      note(done, "pending");
      notify(done);
    } catch (error) {
      notifyFailure(label, error);
    }
  };
  return html`<div class="columns">
    <section class="ways" aria-label="Ways to break it">
      ${more.map(
        ({ label, promise, run: act, isSafe }) => html`<div class="card way" key=${label}>
          <${ActionButton}
            className=${isSafe ? "" : "danger"}
            run=${() => run(label, () => act(workspace))}>
            ${label}
          <//>
          <p class="muted small">${promise}</p>
        </div>`,
      )}
      ${WAYS.map(
        ([way, label, promise]) => html`<div class="card way" key=${way}>
          <${ActionButton} className="danger" run=${() => run(label, () => breakBy(way))}>
            ${label}
          <//>
          <p class="muted small">${promise}</p>
        </div>`,
      )}
    </section>
    <section class="card" aria-labelledby="h-history">
      <div class="bar">
        <h2 id="h-history">What happens</h2>
        <span class="spacer"></span>
        <${Tag} tone=${word === "ready" ? "completed" : word === "degraded" ? "waiting" : "failed"}>
          ${word.replace("_", " ")}
        <//>
      </div>
      <ol class="history" aria-live="polite">
        ${lines.map(
          ({ at, text, tone, key }) => html`<li key=${key} data-tone=${tone}>
            <time class="num muted" datetime=${at.toISOString()}>
              ${at.toISOString().slice(11, 19)}
            </time> ${text}
          </li>`,
        )}
      </ol>
    </section>
  </div>`;
}
