// Describes a goal: what, within which bounds, by when, by which texts. The API says what is wrong.

import { html, useState } from "../../lib/ui.js";
import { Dialog } from "../../parts/dialog.js";
import { plans } from "./data.js";

const key = () => crypto.randomUUID?.() ?? String(Math.random());

/** @param {{workspaceId: string, onClose: () => void, onStarted: (plan: object) => void}} props */
export function PlanDialog({ workspaceId, onClose, onStarted }) {
  const [form, setForm] = useState({ goal: "", constraints: "", deadline: "", phases: "5", ask: true });
  const [documents, setDocuments] = useState([]);
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  // the same key for the same form: pressing twice starts one plan
  const [attempt, setAttempt] = useState(key);
  const change = (changes) => { setForm({ ...form, ...changes }); setAttempt(key()); };
  const changeDocument = (index, changes) => { setDocuments(documents.map((one, at) => (at === index ? { ...one, ...changes } : one))); setAttempt(key()); };
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setProblem(null);
    try {
      onStarted(await plans.start({
        workspace_id: workspaceId, goal: form.goal.trim(), constraints: form.constraints.split("\n").map((line) => line.trim()).filter(Boolean),
        deadline: form.deadline || null, max_phases: Number(form.phases), ask: form.ask, documents: documents.filter(({ text }) => text.trim()).map(({ title, text }, index) => ({ title: title.trim() || `Document ${index + 1}`, text })),
      }, attempt));
    } catch (error) {
      setProblem(error.message);
      setBusy(false);
    }
  };
  return html`<${Dialog} title="New plan" onClose=${onClose} wide>
    <form class="stack" onSubmit=${submit}>
      <label class="field"><span>Goal</span><textarea rows="4" required maxlength="4000" value=${form.goal} onInput=${(event) => change({ goal: event.target.value })}></textarea></label>
      <label class="field"><span>Constraints <span class="hint">one a line</span></span><textarea rows="3" value=${form.constraints} onInput=${(event) => change({ constraints: event.target.value })}></textarea></label>
      <div class="ways">
        <label class="field"><span>Deadline <span class="hint">or nothing</span></span><input type="date" value=${form.deadline} onInput=${(event) => change({ deadline: event.target.value })} /></label>
        <label class="field"><span>Phases at most</span><input type="number" min="1" max="12" required value=${form.phases} onInput=${(event) => change({ phases: event.target.value })} /></label>
      </div>
      ${documents.map((one, index) => html`<fieldset key=${one.key} class="card stack"><legend>Document ${index + 1}</legend>
        <label class="field"><span>Title</span><input type="text" maxlength="200" value=${one.title} onInput=${(event) => changeDocument(index, { title: event.target.value })} /></label>
        <label class="field"><span>Text</span><textarea rows="4" maxlength="20000" value=${one.text} onInput=${(event) => changeDocument(index, { text: event.target.value })}></textarea></label>
        <div class="actions start"><button type="button" class="quiet" onClick=${() => setDocuments(documents.filter((other) => other !== one))}>Remove document ${index + 1}</button></div></fieldset>`)}
      ${documents.length < 10 && html`<div class="actions start"><button type="button" class="quiet" onClick=${() => setDocuments([...documents, { key: key(), title: "", text: "" }])}>Add a document</button></div>`}
      <label class="field-inline"><input type="checkbox" checked=${form.ask} onChange=${(event) => change({ ask: event.target.checked })} /> It may ask me back; without an answer it goes on with its assumptions</label>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <div class="actions"><button type="button" onClick=${onClose}>Close</button><button type="submit" class="primary" disabled=${busy}>${busy ? "Starting…" : "Plan it"}</button></div>
    </form>
  <//>`;
}
