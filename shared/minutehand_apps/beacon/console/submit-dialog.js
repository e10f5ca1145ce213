// Submits a job spec from a form: a name, regions, and a question per line. The API checks it.

import { html, useState } from "../../lib/ui.js";
import { DialogForm } from "../../parts/dialog-form.js";
import { beacon } from "./data.js";

/** @import { Submitted } from "./routes.js" */
/** @typedef {Event & {target: HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement}} Change */

const words = (/** @type {string} */ text) => text.split(/[\s,]+/).filter(Boolean);

/** A line is a question, or `category: question` with a category of one word. */
function questionOf(/** @type {string} */ line, /** @type {number} */ index) {
  const found = /^([A-Za-z][\w-]*):\s+(.+)$/.exec(line);
  return found ? { id: `q${index + 1}`, question: found[2], category: found[1] } : line;
}

/** @param {{workspaceId: string, onClose: () => void, onSubmitted: (job: Submitted) => void}} props */
export function SubmitDialog({ workspaceId, onClose, onSubmitted }) {
  const [form, setForm] = useState({
    name: "",
    regions: "us-east, eu-west",
    least: "1",
    models: "",
    questions: "",
    stragglers: /** @type {"keep" | "cancel"} */ ("keep"),
  });
  const set = (/** @type {keyof typeof form} */ name) => (/** @type {Change} */ event) =>
    setForm({ ...form, [name]: event.target.value });
  const field = (
    /** @type {string} */ label,
    /** @type {string | null} */ hint,
    /** @type {keyof typeof form} */ name,
    /** @type {object} */ props,
  ) =>
    html`<label class="field">
      <span>${label}${hint && html` <span class="hint">${hint}</span>`}</span>
      <input type="text" value=${form[name]} onInput=${set(name)} ...${props} />
    </label>`;
  const submit = async () => {
    const slug =
      form.name
        .toLowerCase()
        .replace(/[^a-z0-9]+/g, "-")
        .replace(/^-+|-+$/g, "")
        .slice(0, 60) || "benchmark";
    const models = words(form.models);
    onSubmitted(
      await beacon.submit({
        workspace_id: workspaceId,
        jobspec_id: `${slug}-${Date.now().toString(36)}`,
        version: "1",
        benchmark: { name: form.name.trim() },
        constraints: {
          regions: words(form.regions),
          min_regions: Number(form.least),
          stragglers: form.stragglers,
        },
        questions: form.questions
          .split("\n")
          .map((line) => line.trim())
          .filter(Boolean)
          .map(questionOf),
        ...(models.length > 0 && { models }),
      }),
    );
  };
  return html`<${DialogForm}
    title="New benchmark"
    action="Submit"
    doing="Submitting…"
    run=${submit}
    onClose=${onClose}
    wide>
    ${field("Name", null, "name", { required: true, maxlength: 200 })}
    <label class="field">
      <span>
        Questions <span class="hint">one per line; “category: question” gives it a category</span>
      </span>
      <textarea rows="6" required value=${form.questions} onInput=${set("questions")}></textarea>
    </label>
    <div class="ways">
      ${field("Regions", "with commas between", "regions", { required: true })}
      ${field("Regions needed", null, "least", { type: "number", min: 1, max: 50, required: true })}
    </div>
    <div class="ways">
      ${field("Models", "none: the provider's own choice", "models", {})}
      <label class="field">
        <span>Late regions</span>
        <select value=${form.stragglers} onChange=${set("stragglers")}>
          <option value="keep">are waited for</option>
          <option value="cancel">are cancelled once enough answered</option>
        </select>
      </label>
    </div>
  <//>`;
}
