// Another payload for a job: run again from a step as a new one, or changed before it runs.

import { jobs as api, once } from "../api.js";
import { counted, pretty } from "../lib/format.js";
import { ENDED } from "../lib/jobs/sequence.js";
import { navigate } from "../lib/router.js";
import { useRead } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { StateBadge } from "./badge.js";
import { DialogForm } from "./dialog-form.js";
import { jobLink } from "./facts.js";
import { notify } from "./toasts.js";
import { When } from "./when.js";

/** @import { Job, Step, WatchedJob } from "../lib/jobs/types.js" */

/**
 * A new job from a finished step on; the results of the steps before it may be changed, too.
 *
 * @param {{job: WatchedJob, from: string, kept: Step[], onClose: () => void}} props
 */
export function ReplayDialog({ job, from, kept, onClose }) {
  const run = async (
    /** @type {any} */ payload,
    /** @type {Record<string, unknown>} */ results,
  ) => {
    const made = await api.replay(
      job.id,
      once({
        from_step: from,
        ...(payload !== undefined && { payload }),
        results,
      }),
    );
    if (made.warning) notify(made.warning);
    navigate(`/jobs/${made.id}`);
  };
  const rest = kept.length > 0 ? ` and ${counted(kept.length, "finished step")}` : "";
  return html`<${PayloadDialog}
    title=${`Run again from ${from}`}
    action="Run again"
    job=${job}
    kept=${kept}
    run=${run}
    onClose=${onClose}
    text=${`A new job with this payload${rest}; the job shown here stays as it is.`} />`;
}

/**
 * Another payload for a job that has not run yet, or that is to run again.
 *
 * @param {{job: WatchedJob, onDone: () => unknown, onClose: () => void}} props
 */
export function EditDialog({ job, onDone, onClose }) {
  const isEnded = ENDED.has(job.status);
  const run = async (/** @type {any} */ payload) => {
    const change = payload === undefined ? undefined : { body: { payload } };
    if (isEnded) await api.retry(job.id, change);
    else if (change) await api.edit(job.id, change);
    await onDone();
  };
  return html`<${PayloadDialog}
    title="Edit payload"
    action=${isEnded ? "Retry with this payload" : "Save"}
    job=${job}
    kept=${[]}
    run=${run}
    onClose=${onClose}
    text="The change is written to the job's history. Finished steps are kept." />`;
}

/**
 * @param {{title: string, text: string, action: string, job: Job, kept: Step[], onClose: () => void,
 *   run: (payload: any, results: Record<string, unknown>) => Promise<void>}} props `run` gets what was changed: the
 *   payload, or undefined, and results by step.
 */
function PayloadDialog({ title, text, action, job, kept, run, onClose }) {
  const first = /** @type {Record<string, string>} */ ({ "": pretty(job.payload) });
  for (const step of kept) first[step.name] = pretty(step.result);
  const [texts, setTexts] = useState(first);
  const submit = async () => {
    /** @type {Record<string, unknown>} */
    const changed = {};
    for (const [name, value] of Object.entries(texts)) {
      if (value === first[name]) continue;
      try {
        changed[name] = JSON.parse(value);
      } catch (error) {
        const what = name ? `The result of ${name}` : "The payload";
        throw new Error(`${what} is not JSON: ${error.message}`, { cause: error });
      }
    }
    const { "": payload, ...results } = changed;
    await run(payload, results);
    onClose();
  };
  const area = (/** @type {string} */ name, /** @type {string} */ label) =>
    html`<label class="field">
      <span>${label}</span>
      <textarea
        rows=${name ? 4 : 8}
        class="mono"
        spellcheck="false"
        value=${texts[name]}
        onInput=${(/** @type {{target: HTMLTextAreaElement}} */ event) => setTexts({ ...texts, [name]: event.target.value })}
      ></textarea>
    </label>`;
  return html`<${DialogForm} title=${title} action=${action} run=${submit} onClose=${onClose} wide>
    <p class="muted">${text}</p>
    ${area("", "Payload (JSON)")}
    ${
      kept.length > 0 &&
      html`<details class="more">
        <summary>Results of the steps that are kept</summary>
        ${kept.map((step) => html`<div key=${step.name}>${area(step.name, step.name)}</div>`)}
      </details>`
    }
  <//>`;
}

/**
 * The job, what it is a replay of and their other replays; nothing where there are none.
 *
 * @param {{job: WatchedJob}} props
 */
export function Replays({ job }) {
  const read = useRead((signal) => api.replays(job.id, signal), [job.id, job.status]);
  const chain = read.value ?? [];
  if (chain.length < 2) return null;
  return html`<section class="card" aria-labelledby="h-replays">
    <h2 id="h-replays">Replays</h2>
    <ul class="children">
      ${chain.map(
        (one) => html`<li key=${one.id}>
          <div class="child">
            ${one.id === job.id ? html`<span class="strong">This job</span>` : jobLink(one.id)}
            <span class="child-note muted">
              ${one.replay_of ? (one.replay_from ? `from ${one.replay_from}` : "from its start") : "the first"}
            </span>
            <${StateBadge} job=${one} />
            <span class="muted small"><${When} at=${one.created_at} /></span>
          </div>
        </li>`,
      )}
    </ul>
  </section>`;
}
