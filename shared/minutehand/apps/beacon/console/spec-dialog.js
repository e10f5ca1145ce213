// Writes a spec, new or as the next version of one there is; SQL says what is wrong with it.

import { html, useState } from "../../lib/ui.js";
import { Dialog } from "../../parts/dialog.js";
import { beacon } from "./data.js";

const FIRST = { target: { url: "", method: "GET", headers: {}, body: null }, regions: ["eu-west-1"], samples: 50, warm_up: 2, concurrency: 4, timeout_ms: 5000, connection: "reuse", thresholds: { p95_ms: null, error_rate: null } };
const optional = (text, factor = 1) => (text === "" ? null : Math.round(Number(text) * factor * 10_000) / 10_000);

/** @param {{workspaceId: string, from: object | null, onClose: () => void, onWritten: (spec: object) => void}} props */
export function SpecDialog({ workspaceId, from, onClose, onWritten }) {
  const was = from?.spec ?? FIRST;
  const [form, setForm] = useState({
    name: from?.name ?? "", url: was.target.url, method: was.target.method, body: was.target.body ?? "", regions: was.regions.join(", "), samples: String(was.samples),
    concurrency: String(was.concurrency), timeout: String(was.timeout_ms), connection: was.connection, p95: String(was.thresholds.p95_ms ?? ""), errors: was.thresholds.error_rate === null ? "" : String(optional(String(was.thresholds.error_rate), 100)),
  });
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const set = (name) => (event) => setForm({ ...form, [name]: event.target.value });
  const field = (name, label, more = {}, hint = null) => html`<label class="field"><span>${label}${hint && html` <span class="hint">${hint}</span>`}</span><input type="text" value=${form[name]} onInput=${set(name)} ...${more} /></label>`;
  const count = (name, label, hint, more = {}) => field(name, label, { type: "number", inputmode: "numeric", ...more }, hint);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setProblem(null);
    try {
      onWritten(await beacon.createSpec({
        ...was, workspace_id: workspaceId, name: form.name.trim(),
        target: { ...was.target, url: form.url.trim(), method: form.method, body: form.body === "" ? null : form.body },
        regions: form.regions.split(/[\s,]+/).filter(Boolean), samples: Number(form.samples), concurrency: Number(form.concurrency), timeout_ms: Number(form.timeout), connection: form.connection,
        thresholds: { p95_ms: optional(form.p95), error_rate: optional(form.errors, 0.01) },
      }));
    } catch (error) {
      setProblem(error.message);
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${from ? `Next version of ${from.name}` : "New benchmark"} onClose=${onClose} wide>
    <form class="stack" onSubmit=${submit}>
      ${field("name", "Name", { required: true, maxlength: 100, readonly: Boolean(from) })}
      ${field("url", "Endpoint", { required: true, type: "text", placeholder: "https://provider.example/v1/models", inputmode: "url" }, "https; its text goes with every receipt, so no secrets")}
      <div class="ways">
        <label class="field"><span>Method</span><select value=${form.method} onChange=${set("method")}>${["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].map((method) => html`<option key=${method}>${method}</option>`)}</select></label>
        <label class="field"><span>Connections</span><select value=${form.connection} onChange=${set("connection")}><option value="reuse">kept</option><option value="new">a new one per sample</option></select></label>
      </div>
      ${["POST", "PUT", "PATCH"].includes(form.method) && html`<label class="field"><span>Body</span><textarea rows="3" value=${form.body} onInput=${set("body")}></textarea></label>`}
      ${field("regions", "Regions", { required: true }, "names, with commas between")}
      <div class="ways">${count("samples", "Samples", "per region", { min: 1, max: 2000, required: true })}${count("concurrency", "At once", "", { min: 1, max: 20, required: true })}
        ${count("timeout", "Timeout", "ms", { min: 100, max: 30000, required: true })}</div>
      <div class="ways">${count("p95", "95 % within", "ms, or nothing", { min: 1, max: 60000 })}${count("errors", "Errors at most", "%, or nothing", { min: 0, max: 100, step: 0.01 })}</div>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <div class="actions"><button type="button" onClick=${onClose}>Close</button><button type="submit" class="primary" disabled=${busy}>${busy ? "Writing…" : "Write it"}</button></div>
    </form>
  <//>`;
}
