// The procedure: read beside the video, exported, edited by people, and kept in all its versions.

import { useRead } from "../../lib/store.js";
import { html, useState } from "../../lib/ui.js";
import { Tag } from "../../parts/badge.js";
import { download } from "../../parts/copy.js";
import { ActionButton } from "../../parts/dialog.js";
import { Failed, Loading, Stale } from "../../parts/states-of-view.js";
import { notify, notifyFailure } from "../../parts/toasts.js";
import { clock, secondsOf, trainings } from "./data.js";

/** @import { EditedSteps, NumberedProcedure, NumberedStep, StoredProcedure } from "./routes.js" */
/** @typedef {{base: number, from: NumberedProcedure}} Draft What is edited, and the version to be replaced. */
/** @typedef {Omit<NumberedStep, "number">} Step */
/** @typedef {Step & {at: string, key: number}} StepForm `at` is the time as a person writes it. */

const byWhom = (/** @type {StoredProcedure} */ one) =>
  one.author === "person" ? "edited by a person" : `by ${one.author}`;

/** @param {{id: string, latest: number, jump: (seconds: number) => void, now: () => number, onSaved: () => void}} props */
export function ProcedureCard({ id, latest, jump, now, onSaved }) {
  const [version, setVersion] = useState(/** @type {number | null} */ (null)); // null: the latest, whatever it is
  const [draft, setDraft] = useState(/** @type {Draft | null} */ (null));
  const found = useRead(
    (signal) => trainings.procedure(id, version ?? undefined, signal),
    [id, version ?? latest],
  );
  const stored = found.value;
  if (!stored)
    return html`<section class="card" aria-labelledby="h-procedure"><h2 id="h-procedure">Procedure</h2>${found.error ? html`<${Failed} error=${found.error} retry=${found.refresh} what="The procedure could not be read" />` : html`<${Loading} what="Reading the procedure" />`}</section>`;
  const save = async (/** @type {EditedSteps} */ edited) => {
    const made = await trainings.save(id, /** @type {Draft} */ (draft).base, edited);
    setDraft(null);
    setVersion(null);
    notify(`Version ${made.version} is saved`);
    onSaved();
  };
  const exportIt = async () => {
    try {
      download(
        `procedure-${id}-v${stored.version}.md`,
        await trainings.markdown(id, stored.version),
      );
    } catch (error) {
      notifyFailure("Not exported", error);
    }
  };
  const { procedure } = stored;
  return html`<section class="card stack" aria-labelledby="h-procedure">
    <div class="bar"><h2 id="h-procedure">Procedure</h2>${stored.offline && html`<${Tag} tone="waiting">Without a language model<//>`}<span class="muted small wrap">version ${stored.version}, ${byWhom(stored)}</span><span class="spacer"></span>
      ${stored.versions.length > 1 && html`<label class="field-inline">Version <select value=${String(stored.version)} onChange=${(/** @type {{target: HTMLSelectElement}} */ event) => setVersion(Number(event.target.value))}>${stored.versions.map((one) => html`<option key=${one.version} value=${String(one.version)}>${one.version}${one.version === stored.versions[0].version ? " (latest)" : ""}</option>`)}</select></label>`}
      ${!draft && html`<${ActionButton} className="quiet" run=${exportIt}>Export as Markdown<//><button type="button" onClick=${() => setDraft({ base: stored.versions[0].version, from: procedure })}>Edit</button>`}</div>
    ${found.isStale && html`<${Stale} error=${found.error} retry=${found.refresh} />`}
    ${
      draft
        ? html`<${Editor} of=${draft.from} save=${save} now=${now} onClose=${() => setDraft(null)} />`
        : html`
      <div><h3 class="wrap">${procedure.title}</h3>${procedure.purpose && html`<p class="muted wrap">${procedure.purpose}</p>`}</div>
      ${procedure.warnings.length > 0 && html`<ul class="stack" aria-label="Warnings">${procedure.warnings.map((text, index) => html`<li key=${index} class="notice stale wrap">${text}</li>`)}</ul>`}
      ${procedure.materials.length > 0 && html`<p class="wrap"><span class="strong">Materials:</span> ${procedure.materials.join(", ")}</p>`}
      <ol class="stack" aria-label="Steps">${procedure.steps.map(
        (
          step,
          index,
        ) => html`<li key=${index} class="bar" style=${{ flexWrap: "nowrap", alignItems: "baseline" }}>
        <button type="button" class="quiet num" onClick=${() => jump(step.at_seconds)} aria-label=${`Play step ${index + 1} from ${clock(step.at_seconds)}`}>${clock(step.at_seconds)}</button>
        <div class="grow wrap"><p class="strong">${index + 1}. ${step.title}</p>${step.detail && html`<p>${step.detail}</p>`}</div></li>`,
      )}</ol>`
    }
  </section>`;
}

const lines = (/** @type {string} */ text) =>
  text
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);
let last = 0;
const keyed = (/** @type {Step} */ step) => ({
  ...step,
  at: clock(step.at_seconds),
  key: (last += 1),
});

/**
 * @param {{of: NumberedProcedure, save: (edited: EditedSteps) => Promise<void>, now: () => number,
 *   onClose: () => void}} props `now` is the video's time in seconds.
 */
function Editor({ of, save, now, onClose }) {
  const [form, setForm] = useState({
    title: of.title,
    purpose: of.purpose,
    materials: of.materials.join("\n"),
    warnings: of.warnings.join("\n"),
  });
  const [steps, setSteps] = useState(() => of.steps.map(keyed));
  const [problem, setProblem] = useState(/** @type {string | null} */ (null));
  const [busy, setBusy] = useState(false);
  const change = (/** @type {Partial<typeof form>} */ changes) => setForm({ ...form, ...changes });
  /** @type {(index: number, changes: Partial<StepForm>) => void} */
  const changeStep = (index, changes) =>
    setSteps(steps.map((one, at) => (at === index ? { ...one, ...changes } : one)));
  /** @type {(index: number, by: 1 | -1) => void} */
  const move = (index, by) =>
    setSteps(
      steps.map((one, at) =>
        at === index ? steps[index + by] : at === index + by ? steps[index] : one,
      ),
    );
  const submit = async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const wrong = steps.findIndex((step) => Number.isNaN(secondsOf(step.at)));
    if (wrong >= 0)
      return setProblem(
        `Step ${wrong + 1}: ${steps[wrong].at || "nothing"} is not a time; write it as 1:05`,
      );
    setBusy(true);
    setProblem(null);
    try {
      await save({
        title: form.title.trim(),
        purpose: form.purpose.trim(),
        materials: lines(form.materials),
        warnings: lines(form.warnings),
        // a time that was not touched keeps its fractions
        steps: steps.map((step) => ({
          title: step.title.trim(),
          detail: step.detail.trim(),
          at_seconds: step.at === clock(step.at_seconds) ? step.at_seconds : secondsOf(step.at),
        })),
      });
    } catch (error) {
      setProblem(
        error.code === "edit_conflict"
          ? "Someone else has saved a version meanwhile. Copy what you need, close, and edit the latest."
          : error.message,
      );
      setBusy(false);
    }
    return undefined;
  };
  return html`<form class="stack" onSubmit=${submit} aria-label="Edit the procedure">
    <label class="field"><span>Title</span><input type="text" required maxlength="200" value=${form.title} onInput=${(/** @type {{target: HTMLInputElement}} */ event) => change({ title: event.target.value })} /></label>
    <label class="field"><span>Purpose</span><textarea rows="2" maxlength="2000" value=${form.purpose} onInput=${(/** @type {{target: HTMLTextAreaElement}} */ event) => change({ purpose: event.target.value })}></textarea></label>
    <div class="ways">
      <label class="field"><span>Materials <span class="hint">one a line</span></span><textarea rows="3" value=${form.materials} onInput=${(/** @type {{target: HTMLTextAreaElement}} */ event) => change({ materials: event.target.value })}></textarea></label>
      <label class="field"><span>Warnings <span class="hint">one a line</span></span><textarea rows="3" value=${form.warnings} onInput=${(/** @type {{target: HTMLTextAreaElement}} */ event) => change({ warnings: event.target.value })}></textarea></label>
    </div>
    ${steps.map(
      (
        step,
        index,
      ) => html`<fieldset key=${step.key} class="card stack"><legend>Step ${index + 1}</legend>
      <label class="field"><span>What to do</span><input type="text" required maxlength="500" value=${step.title} onInput=${(/** @type {{target: HTMLInputElement}} */ event) => changeStep(index, { title: event.target.value })} /></label>
      <label class="field"><span>Detail</span><textarea rows="2" maxlength="2000" value=${step.detail} onInput=${(/** @type {{target: HTMLTextAreaElement}} */ event) => changeStep(index, { detail: event.target.value })}></textarea></label>
      <div class="bar"><label class="field-inline">At <input type="text" size="7" required inputmode="numeric" value=${step.at} onInput=${(/** @type {{target: HTMLInputElement}} */ event) => changeStep(index, { at: event.target.value })} /></label>
        <button type="button" class="quiet" onClick=${() => {
          const at = now();
          changeStep(index, { at: clock(at), at_seconds: Math.floor(at) });
        }}>Take the video's time<span class="hidden"> for step ${index + 1}</span></button><span class="spacer"></span>
        <button type="button" class="quiet" disabled=${index === 0} onClick=${() => move(index, -1)}>Up<span class="hidden">: step ${index + 1}</span></button><button type="button" class="quiet" disabled=${index === steps.length - 1} onClick=${() => move(index, 1)}>Down<span class="hidden">: step ${index + 1}</span></button>
        <button type="button" class="quiet" disabled=${steps.length === 1} onClick=${() => setSteps(steps.filter((one) => one !== step))}>Remove step ${index + 1}</button></div></fieldset>`,
    )}
    ${steps.length < 200 && html`<div class="actions start"><button type="button" class="quiet" onClick=${() => setSteps([...steps, keyed({ title: "", detail: "", at_seconds: Math.floor(now()) })])}>Add a step</button></div>`}
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <div class="actions"><button type="button" onClick=${onClose}>Close</button><button type="submit" class="primary" disabled=${busy}>${busy ? "Saving…" : "Save as the next version"}</button></div>
  </form>`;
}
