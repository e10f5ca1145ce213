// The procedure: read beside the video, exported, edited by people, and kept in all its versions.

import { useRead } from "../../lib/store.js";
import { html, useEffect, useRef, useState } from "../../lib/ui.js";
import { Tag } from "../../parts/badge.js";
import { download } from "../../parts/copy.js";
import { ActionButton } from "../../parts/dialog.js";
import { Stale } from "../../parts/states-of-view.js";
import { notify, notifyFailure } from "../../parts/toasts.js";
import { Unread } from "../../parts/unread.js";
import { clock, secondsOf, trainings } from "./data.js";

/** @import { EditedSteps, NumberedProcedure, NumberedStep, StoredProcedure } from "./routes.js" */
/** @typedef {{base: number, from: NumberedProcedure}} Draft What is edited, and the version to be replaced. */
/** @typedef {Omit<NumberedStep, "number" | "still">} Step */
/**
 * @typedef {{part: "title" | "purpose" | "step", number: number | null, mine: any, theirs: any}} Conflict
 *   A part that someone else changed as well; a step that one has removed is null there.
 */
/** @typedef {Step & {at: string, key: number}} StepForm `at` is the time as a person writes it. */

const byWhom = (/** @type {StoredProcedure} */ one) =>
  one.author === "person" ? "edited by a person" : `by ${one.author}`;

/** @param {{id: string, latest: number, stills: number, jump: (seconds: number) => void, now: () => number, onSaved: () => void}} props */
export function ProcedureCard({ id, latest, stills, jump, now, onSaved }) {
  const [version, setVersion] = useState(/** @type {number | null} */ (null)); // null: the latest, whatever it is
  const [draft, setDraft] = useState(/** @type {Draft | null} */ (null));
  const found = useRead(
    (signal) => trainings.procedure(id, version ?? undefined, signal),
    [id, version ?? latest],
  );
  /** @type {(base: number, edited: EditedSteps) => Promise<void>} */
  const save = async (base, edited) => {
    const made = await trainings.save(id, base, edited);
    setDraft(null);
    setVersion(null);
    notify(`Version ${made.version} is saved`);
    onSaved();
  };
  const stored = found.value;
  const card = useRef(/** @type {HTMLElement | null} */ (null));
  const renewed = useRef(0);
  useEffect(() => {
    if (stored) found.refresh(); // their addresses come with the procedure
  }, [stills]);
  if (draft)
    return html`<section class="card stack" aria-labelledby="h-procedure">
      <h2 id="h-procedure">Procedure</h2>
      <${Editor} draft=${draft} save=${save} now=${now} onClose=${() => setDraft(null)} />
    </section>`;
  if (!stored)
    return html`<section class="card" aria-labelledby="h-procedure">
      <h2 id="h-procedure">Procedure</h2>
      <${Unread} of=${found} what="the procedure" />
    </section>`;
  const exportIt = async () => {
    try {
      download(
        `procedure-${id}-v${stored.version}.md`,
        await trainings.markdown(id, stored.version),
      );
    } catch (error) {
      notifyFailure("Could not export", error);
    }
  };
  const print = () => {
    // what is closed, or not yet loaded, is not printed
    for (const more of card.current?.querySelectorAll("details") ?? []) more.open = true;
    const pictures = [...(card.current?.querySelectorAll("img") ?? [])];
    for (const picture of pictures) picture.loading = "eager";
    return Promise.allSettled(pictures.map((picture) => picture.decode())).then(() =>
      globalThis.print(),
    );
  };
  const expired = () => {
    if (Date.now() - renewed.current < 10_000) return; // not the address, then
    renewed.current = Date.now();
    found.refresh();
  };
  const { procedure } = stored;
  const doubtful = procedure.steps.filter((step) => step.doubtful).length;
  return html`<section ref=${card} class="card stack printed" aria-labelledby="h-procedure">
    <div class="bar">
      <h2 id="h-procedure">Procedure</h2>
      ${stored.offline && html`<${Tag} tone="waiting">Without a language model<//>`}
      ${
        doubtful > 0 &&
        html`<${Tag} tone="waiting">
          ${doubtful} of ${procedure.steps.length} steps doubtful
        <//>`
      }
      <span class="muted small wrap">version ${stored.version}, ${byWhom(stored)}</span>
      <span class="spacer"></span>
      ${
        stored.versions.length > 1 &&
        html`<label class="field-inline">
          Version <select
            value=${String(stored.version)}
            onChange=${(/** @type {{target: HTMLSelectElement}} */ event) => setVersion(Number(event.target.value))}>
            ${stored.versions.map(
              (one) => html`<option key=${one.version} value=${String(one.version)}>
                ${one.version}
                ${one.version === stored.versions[0].version ? " (latest)" : ""}
              </option>`,
            )}
          </select>
        </label>`
      }
      <${ActionButton} className="quiet" run=${exportIt}>Export as Markdown<//>
      <${ActionButton} className="quiet" run=${print}>Print or save as PDF<//>
      <button
        type="button"
        onClick=${() => setDraft({ base: stored.versions[0].version, from: procedure })}>
        Edit
      </button>
    </div>
    ${found.isStale && html`<${Stale} error=${found.error} retry=${found.refresh} />`}
    <div>
      <h3 class="wrap">${procedure.title}</h3>
      ${procedure.purpose && html`<p class="muted wrap">${procedure.purpose}</p>`}
    </div>
    ${
      procedure.warnings.length > 0 &&
      html`<ul class="stack" aria-label="Warnings">
        ${procedure.warnings.map(
          (text, index) => html`<li key=${index} class="notice stale wrap">
            ${text}
          </li>`,
        )}
      </ul>`
    }
    ${
      procedure.materials.length > 0 &&
      html`<p class="wrap">
        <span class="strong">Materials:</span> ${procedure.materials.join(", ")}
      </p>`
    }
    <ol class="stack" aria-label="Steps">
      ${procedure.steps.map(
        (step, index) => html`<li
          key=${index}
          class="bar"
          style=${{ flexWrap: "nowrap", alignItems: "baseline" }}>
          <button
            type="button"
            class="quiet num"
            onClick=${() => jump(step.at_seconds)}
            aria-label=${`Play step ${index + 1} from ${clock(step.at_seconds)}`}>
            ${clock(step.at_seconds)}
          </button>
          ${
            step.still &&
            html`<img
              src=${step.still}
              alt=${`The video at ${clock(step.at_seconds)}`}
              loading="lazy"
              width="120"
              onError=${expired} />`
          }
          <div class="grow wrap">
            <p class="strong">
              ${index + 1}. ${step.title}
              ${step.doubtful && html` <${Tag} tone="waiting">Doubtful<//>`}
            </p>
            ${
              step.said &&
              html`<details class="more">
                <summary>What was said</summary>
                <p class="muted">${step.said}</p>
              </details>`
            }
            ${step.detail && html`<p>${step.detail}</p>`}
          </div>
        </li>`,
      )}
    </ol>
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

const texts = (/** @type {EditedSteps} */ of) => ({
  title: of.title,
  purpose: of.purpose ?? "",
  materials: (of.materials ?? []).join("\n"),
  warnings: (of.warnings ?? []).join("\n"),
});
const inWords = (/** @type {any} */ part) =>
  part === null ? "removed" : [part.title ?? part, part.detail].filter(Boolean).join(": ");

const LINES = { rows: 3, hint: "one a line" };

/**
 * A labelled text: of several lines with `rows`, of one, which is needed, without.
 *
 * @param {string} label
 * @param {string} value
 * @param {(value: string) => void} onChange
 * @param {{rows?: number, maxlength?: number, hint?: string}} options
 */
function textField(label, value, onChange, { rows, maxlength, hint }) {
  const props = {
    value,
    maxlength,
    onInput: (/** @type {{target: HTMLInputElement}} */ event) => onChange(event.target.value),
  };
  return html`<label class="field">
    <span>${label}${hint && html` <span class="hint">${hint}</span>`}</span>
    ${
      rows
        ? html`<textarea rows=${rows} ...${props}></textarea>`
        : html`<input type="text" required ...${props} />`
    }
  </label>`;
}

/**
 * @param {{draft: Draft, save: (base: number, edited: EditedSteps) => Promise<void>, now: () => number,
 *   onClose: () => void}} props `now` is the video's time in seconds.
 */
function Editor({ draft, save, now, onClose }) {
  const [base, setBase] = useState(draft.base);
  const [conflicts, setConflicts] = useState(/** @type {Conflict[]} */ ([]));
  const [form, setForm] = useState(() => texts(draft.from));
  const [steps, setSteps] = useState(() => draft.from.steps.map(keyed));
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
      await save(base, {
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
      if (error.code === "edit_conflict" && error.detail) {
        setBase(error.detail.version);
        setForm(texts(error.detail.merged));
        setSteps(error.detail.merged.steps.map(keyed));
        setConflicts(error.detail.conflicts);
      } else setProblem(error.message);
      setBusy(false);
    }
    return undefined;
  };
  const takeTheirs = (/** @type {Conflict} */ conflict) => {
    const { part, mine, theirs } = conflict;
    setConflicts(conflicts.filter((one) => one !== conflict));
    if (part !== "step") return change({ [part]: theirs });
    const place = steps.findIndex(
      (step) => step.title === mine?.title && step.at_seconds === mine?.at_seconds,
    );
    const taken = theirs ? [keyed(theirs)] : [];
    return setSteps(
      place < 0
        ? [...steps, ...taken]
        : steps.flatMap((step, at) => (at === place ? taken : [step])),
    );
  };
  return html`<form class="stack" onSubmit=${submit} aria-label="Edit the procedure">
    ${
      conflicts.length > 0 &&
      html`<div class="notice stale stack" role="alert">
        <span class="strong">Someone else has changed the same parts</span>Everything else is merged. Save again to keep your texts, or take theirs.
        ${conflicts.map(
          (one) => html`<div key=${`${one.part} ${one.number}`} class="bar">
            <span class="grow wrap">
              <span class="strong">${one.part}${one.number && ` ${one.number}`}</span> yours: ${inWords(one.mine)}
              <br />theirs: ${inWords(one.theirs)}
            </span>
            <button type="button" onClick=${() => takeTheirs(one)}>
              Take theirs<span class="hidden"> for ${one.part} ${one.number}</span>
            </button>
          </div>`,
        )}
      </div>`
    }
    ${textField("Title", form.title, (title) => change({ title }), { maxlength: 200 })}
    ${textField("Purpose", form.purpose, (purpose) => change({ purpose }), { rows: 2, maxlength: 2000 })}
    <div class="ways">
      ${textField("Materials", form.materials, (materials) => change({ materials }), LINES)}
      ${textField("Warnings", form.warnings, (warnings) => change({ warnings }), LINES)}
    </div>
    ${steps.map((step, index) => {
      const button = (
        /** @type {string} */ word,
        /** @type {string} */ more,
        /** @type {() => void} */ onClick,
        disabled = false,
      ) =>
        html`<button type="button" class="quiet" disabled=${disabled} onClick=${onClick}>
          ${word}
          <span class="hidden">${more} step ${index + 1}</span>
        </button>`;
      /** @type {(name: "title" | "detail") => (value: string) => void} */
      const set = (name) => (value) => changeStep(index, { [name]: value });
      const takeTime = () => {
        const at = now();
        changeStep(index, { at: clock(at), at_seconds: Math.floor(at) });
      };
      const remove = () => setSteps(steps.filter((one) => one !== step));
      return html`<fieldset key=${step.key} class="card stack">
        <legend>Step ${index + 1}</legend>
        ${textField("What to do", step.title, set("title"), { maxlength: 500 })}
        ${textField("Detail", step.detail, set("detail"), { rows: 2, maxlength: 2000 })}
        <div class="bar">
          <label class="field-inline">
            At <input
              type="text"
              size="7"
              required
              inputmode="numeric"
              value=${step.at}
              onInput=${(/** @type {{target: HTMLInputElement}} */ event) => changeStep(index, { at: event.target.value })} />
          </label>
          ${button("Take the video's time", " for", takeTime)}
          <span class="spacer"></span>
          ${button("Up", ":", () => move(index, -1), index === 0)}
          ${button("Down", ":", () => move(index, 1), index === steps.length - 1)}
          ${button("Remove", "", remove, steps.length === 1)}
        </div>
      </fieldset>`;
    })}
    ${
      steps.length < 200 &&
      html`<div class="actions start">
        <button
          type="button"
          class="quiet"
          onClick=${() => setSteps([...steps, keyed({ title: "", detail: "", at_seconds: Math.floor(now()), doubtful: false, said: "" })])}>
          Add a step
        </button>
      </div>`
    }
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <div class="actions">
      <button type="button" onClick=${onClose}>Close</button>
      <button type="submit" class="primary" disabled=${busy}>
        ${busy ? "Saving…" : "Save as the next version"}
      </button>
    </div>
  </form>`;
}
