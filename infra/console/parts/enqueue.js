// A form that enqueues a job: a new one, or a duplicate of one that is there.

import { jobs as api } from "../api.js";
import { pretty } from "../lib/format.js";
import { navigate } from "../lib/router.js";
import { html, useState } from "../lib/ui.js";
import { Dialog } from "./dialog.js";

const COPIED = ["queue", "priority", "max_attempts", "concurrency_key", "session_id", "timeout_seconds", "schema_version"];

/** What a duplicate takes over: how it runs, but neither its keys against repetition nor its family. */
const ofLike = (job) => Object.fromEntries(COPIED.filter((name) => job[name] !== null && job[name] !== undefined).map((name) => [name, job[name]]));

/** @param {{workspaceId: string, like?: object, onClose: () => void}} props `like` is a job. */
export function EnqueueDialog({ workspaceId, like, onClose }) {
  const [type, setType] = useState(like?.job_type ?? "");
  const [payload, setPayload] = useState(pretty(like?.payload ?? {}));
  const [delay, setDelay] = useState("");
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    let parsed;
    try {
      parsed = JSON.parse(payload);
    } catch (error) {
      setProblem(`The payload is not JSON: ${error.message}`);
      return;
    }
    setBusy(true);
    try {
      const job = await api.create({
        workspace_id: workspaceId, job_type: type.trim(), payload: parsed,
        ...(delay && { delay_seconds: Number(delay) }),
        ...(like && ofLike(like)),
      });
      onClose();
      navigate(`/jobs/${job.id}`);
    } catch (error) {
      setProblem(error.message);
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${like ? "Duplicate job" : "Enqueue a job"} onClose=${onClose} wide>
    <form class="stack" onSubmit=${submit}>
      <label class="field"><span>Type</span><input type="text" required autocomplete="off" spellcheck="false" class="mono" value=${type} autofocus=${!like} onInput=${(event) => setType(event.target.value)} /></label>
      <label class="field"><span>Payload, JSON</span><textarea rows="8" class="mono" spellcheck="false" value=${payload} onInput=${(event) => setPayload(event.target.value)}></textarea></label>
      <label class="field"><span>Start after, seconds (empty for at once)</span><input type="number" min="0" step="1" value=${delay} onInput=${(event) => setDelay(event.target.value)} /></label>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <div class="actions"><button type="button" onClick=${onClose}>Close</button><button type="submit" class="primary" disabled=${busy}>Enqueue</button></div>
    </form>
  <//>`;
}
