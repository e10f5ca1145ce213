// Another payload for a job: run again from a step as a new one, or the failed one again.

import { jobs as api, once } from "../api.js";
import { pretty } from "../lib/format.js";
import { navigate } from "../lib/router.js";
import { useRead } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { StateBadge } from "./badge.js";
import { DialogForm } from "./dialog.js";
import { jobLink } from "./table.js";
import { When } from "./when.js";

/** A new job from a finished step on (`from`), or this failed one again; with another payload if it was changed. */
export function ReplayDialog({ job, from, onDone, onClose }) {
  const first = pretty(job.payload);
  const [text, setText] = useState(first);
  const run = async () => {
    const changed = text === first ? {} : { payload: JSON.parse(text) };
    if (from) {
      const made = await api.replay(job.id, once({ from_step: from, ...changed }));
      navigate(`/jobs/${made.id}`);
    } else {
      await api.retry(job.id, { body: changed });
      await onDone();
    }
    onClose();
  };
  return html`<${DialogForm}
    title=${from ? `Run again from ${from}` : "Retry with another payload"}
    action=${from ? "Run again" : "Retry"}
    run=${run}
    onClose=${onClose}
    wide>
    <p class="muted">
      ${from ? "A new job; the one shown here stays as it is. Finished steps before this one are kept." : "Finished steps are kept."}
    </p>
    <label class="field">
      <span>Payload (JSON)</span>
      <textarea
        rows="8"
        class="mono"
        spellcheck="false"
        value=${text}
        onInput=${(event) => setText(event.target.value)}></textarea>
    </label>
  <//>`;
}

/** The job, what it is a replay of and their other replays; nothing where there are none. */
export function Replays({ job }) {
  const read = useRead((signal) => api.replays(job.id, signal), [job.id, job.status]);
  const chain = read.value ?? [];
  if (chain.length < 2) return null;
  return html`<section class="card" aria-labelledby="h-replays">
    <h2 id="h-replays">Replays</h2>
    <ul class="runs">
      ${chain.map(
        (one) => html`<li key=${one.id}>
          ${one.id === job.id ? html`<span class="strong">This job</span>` : jobLink(one.id)}
          <span class="muted">
            ${one.replay_of ? (one.replay_from ? `from ${one.replay_from}` : "from its start") : "the first"}
          </span>
          <${StateBadge} job=${one} />
          <span class="muted small"><${When} at=${one.created_at} /></span>
        </li>`,
      )}
    </ul>
  </section>`;
}
