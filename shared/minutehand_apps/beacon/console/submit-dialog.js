// Dialog that submits a job spec. The form has the name, the regions, and one question per line.
// The API validates the job spec.

import { area, DialogForm, field, html, useState } from "../../app.js";
import { beacon } from "./data.js";

/**
 * Example that fills the form for a first benchmark. Each question of the example has exactly one
 * correct answer.
 */
const EXAMPLE = {
  name: "Everyday knowledge",
  regions: "us-east, eu-west",
  minRegions: "1",
  questions: `maths: What is 17 times 6?
geography: Which river flows through Vienna?
history: In which year did people first walk on the Moon?`,
};

const words = (text) => text.split(/[\s,]+/).filter(Boolean);

/**
 * Parse a line that contains a question. A category of one word and a colon may precede the
 * question.
 */
function questionOf(line, index) {
  const found = /^([A-Za-z][\w-]*):\s+(.+)$/.exec(line);
  return found ? { id: `q${index + 1}`, question: found[2], category: found[1] } : line;
}

export function SubmitDialog({ workspaceId, onClose, onSubmitted }) {
  const [form, setForm] = useState(EXAMPLE);
  const set = (name) => (value) => setForm({ ...form, [name]: value });
  /** Create a text input for a field of the form. */
  const textLine = (label, name, attributes = {}) =>
    field(label, form[name], set(name), attributes);
  const submit = async () => {
    const slug =
      form.name
        .toLowerCase()
        .replace(/[^a-z0-9]+/g, "-")
        .replace(/^-+|-+$/g, "")
        .slice(0, 60) || "benchmark";
    onSubmitted(
      await beacon.submit({
        workspace_id: workspaceId,
        jobspec_id: `${slug}-${Date.now().toString(36)}`,
        version: "1",
        benchmark: { name: form.name.trim() },
        constraints: { regions: words(form.regions), min_regions: Number(form.minRegions) },
        questions: form.questions
          .split("\n")
          .map((line) => line.trim())
          .filter(Boolean)
          .map(questionOf),
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
    ${textLine("Name", "name", { required: true, maxlength: 200 })}
    ${area(
      html`Questions <span class="hint">one per line, or “category: question”</span>`,
      form.questions,
      set("questions"),
      { rows: 6, required: true },
    )}
    <div class="field-grid">
      ${textLine(html`Regions <span class="hint">separated by commas</span>`, "regions", {
        required: true,
      })}
      ${textLine("Regions that must answer", "minRegions", {
        type: "number",
        min: 1,
        max: 50,
        required: true,
      })}
    </div>
  <//>`;
}
