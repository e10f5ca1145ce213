// The finished steps of a job, oldest first; more of them, and more pages, on demand.

import { jobs as api } from "../api.js";
import { counted, duration, number } from "../lib/format.js";
import { keptSteps } from "../lib/graph.js";
import { MOST_PAGES, readSteps } from "../lib/steps.js";
import { useRead } from "../lib/store.js";
import { html, useRef, useState } from "../lib/ui.js";
import { quiet } from "./button.js";
import { JsonView } from "./json-view.js";
import { Stale } from "./states-of-view.js";
import { When } from "./when.js";

/** @import { Step } from "../lib/jobs/types.js" */
/** @import { Page } from "../lib/steps.js" */
/** @typedef {ReturnType<typeof useSteps>} StepsRead */

const SHOWN = 100;

/** A job's steps, as a read of `lib/store.js`; `more` reads another page, and what was read again. */
export function useSteps(/** @type {string} */ jobId) {
  const pages = useRef(1);
  const read = useRead(
    (signal) =>
      readSteps(
        (after) =>
          api.steps(jobId, {
            query: after && { after_name: after.name, after_nth: after.nth },
            signal,
          }),
        pages.current,
      ),
    [jobId],
  );
  const more = () => {
    pages.current = Math.min(pages.current + 1, MOST_PAGES);
    read.refresh();
  };
  return { ...read, more, isWhole: !read.value?.next || pages.current >= MOST_PAGES };
}

/** @param {{steps: StepsRead, onReplay: (from: string, kept: Step[]) => void}} props */
export function Steps({ steps, onReplay }) {
  const [shown, setShown] = useState(SHOWN);
  /** @type {Step[]} */
  const all = steps.value?.steps ?? [];
  const list = all.filter((step) => step.kind !== "graph");
  if (list.length === 0) return null;
  const isMore = shown < list.length || !steps.isWhole;
  const showMore = () => {
    if (shown >= list.length) steps.more();
    setShown(shown + SHOWN);
  };
  return html`<section class="card" aria-labelledby="h-steps">
    <h2 id="h-steps">Steps</h2>
    <p class="muted small">Finished steps are remembered: a retry continues after the last one.</p>
    ${steps.isStale && html`<${Stale} error=${steps.error} retry=${steps.refresh} />`}
    ${list.slice(0, shown).map(
      (step) => html`<details class="more" key=${step.name}>
        <summary>
          <span class="mono">${step.name}</span>
          ${step.took_ms !== null && html` <span class="num">${duration(step.took_ms)}</span>`}
          ${" "}
          <${When} at=${step.created_at} />
        </summary>
        <${JsonView} value=${step.result} label=${`Result of ${step.name}`} />
        <button type="button" onClick=${() => onReplay(step.name, keptSteps(all, step.name))}>
          Run again from here
        </button>
      </details>`,
    )}
    ${
      (isMore || /** @type {Page} */ (steps.value).next) &&
      html`<p class="muted small num" aria-live="polite">
        ${number(Math.min(shown, list.length))} of ${/** @type {Page} */ (steps.value).next ? "more than " : ""}
        ${counted(list.length, "step")}
      </p>`
    }
    ${isMore && quiet("Show more steps", showMore, { disabled: steps.isLoading })}
  </section>`;
}
