// Dialog in which a person edits the payload of a job and runs the job again.

import { jobs as api, withIdempotencyKey } from "../api.js";
import { ENDED } from "../lib/jobs/ended.js";
import { parsePayload, pretty } from "../lib/format.js";
import { navigate } from "../lib/router.js";
import { html, useState } from "../lib/ui.js";
import { DialogForm } from "./dialog.js";
import { area } from "./field.js";

/**
 * Create a copy of the job, which may start at the finished step `from`. If `isCopy` is false,
 * retry the job instead of copying it.
 */
export function ReplayDialog({ job, from, isCopy = Boolean(from), onDone, onClose }) {
  const first = pretty(job.payload);
  const [text, setText] = useState(first);
  const run = async () => {
    const changed = text === first ? {} : { payload: parsePayload(text) };
    if (isCopy) {
      const created = await api.replay(job.id, withIdempotencyKey({ from_step: from, ...changed }));
      navigate(`/jobs/${created.id}`);
    } else {
      await api.retry(job.id, { body: changed });
      await onDone();
    }
    onClose();
  };
  const [title, action, effect] = from
    ? [
        `Run again from ${from}`,
        "Run again",
        "A new job. It keeps the finished steps before this one.",
      ]
    : isCopy
      ? ["Duplicate", "Duplicate", "A new job with the same type."]
      : ["Retry with another payload", "Retry", "Finished steps are kept."];
  return html`<${DialogForm} title=${title} action=${action} run=${run} onClose=${onClose} wide>
    <p class="muted">
      ${effect}
      ${isCopy && !ENDED.has(job.status) && " The first job has not ended, so both may run."}
    </p>
    ${area("Payload (JSON)", text, setText)}
  <//>`;
}
