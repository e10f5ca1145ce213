// A form that enqueues a job: a new one by its type's schema, or a duplicate of one that is there.

import { jobs as api, types } from "../api.js";
import { pretty } from "../lib/format.js";
import { navigate } from "../lib/router.js";
import { remedyOfRefusal } from "../lib/remedies.js";
import { draftOf, fieldsOf, payloadOf } from "../lib/schema-form.js";
import { useRead } from "../lib/store.js";
import { html, useEffect, useId, useState } from "../lib/ui.js";
import { quiet } from "./button.js";
import { Dialog } from "./dialog.js";
import { field as line } from "./field.js";
import { notify } from "./toasts.js";

/** @import { Job } from "../lib/jobs/types.js" */
/** @import { JobTypeDetail, JobTypes } from "../lib/routes.js" */
/** @import { Field as SchemaField } from "../lib/schema-form.js" */
/** @import { Read } from "../lib/store.js" */

/** @type {Array<keyof Job>} */
const COPIED = [
  "queue",
  "priority",
  "max_attempts",
  "concurrency_key",
  "session_id",
  "timeout_seconds",
  "schema_version",
  "tags",
];

/** What a duplicate takes over: how it runs, but neither its keys against repetition nor its family. */
const ofLike = (/** @type {Job} */ job) =>
  Object.fromEntries(
    COPIED.filter(
      (name) =>
        job[name] !== null &&
        job[name] !== undefined &&
        /** @type {{length?: number}} */ (job[name]).length !== 0,
    ).map((name) => [name, job[name]]),
  );

/** @param {{workspaceId: string, like?: Job, type?: string, onClose: () => void}} props `like` is a job. */
export function EnqueueDialog({ workspaceId, like, type: given, onClose }) {
  const [type, setType] = useState(like?.job_type ?? given ?? "");
  const [text, setText] = useState(pretty(like?.payload ?? {}));
  const [draft, setDraft] = useState(/** @type {Record<string, string> | null} */ (null));
  const [asText, setAsText] = useState(false);
  const [delay, setDelay] = useState("");
  const [tags, setTags] = useState((like?.tags ?? []).join(", "));
  const [problem, setProblem] = useState(/** @type {string | null} */ (null));
  const [remedy, setRemedy] = useState(/** @type {ReturnType<typeof remedyOfRefusal>} */ (null));
  const [problems, setProblems] = useState(/** @type {Record<string, string>} */ ({}));
  const [busy, setBusy] = useState(false);
  const listId = useId();
  /** @type {Read<JobTypes>} */
  const known = useRead((signal) => types.list(workspaceId, signal), [workspaceId]);
  const names = known.value?.types.map((one) => one.job_type) ?? [];
  const chosen = names.includes(type.trim()) ? type.trim() : null;
  /** @type {Read<JobTypeDetail | null>} */
  const one = useRead(
    (signal) => (chosen ? types.get(workspaceId, chosen, signal) : Promise.resolve(null)),
    [workspaceId, chosen],
  );
  const fields = one.value?.payload_schema ? fieldsOf(one.value.payload_schema) : null;
  const isForm = fields !== null && !asText;
  useEffect(() => {
    if (fields) setDraft(draftOf(fields, like?.job_type === chosen ? like.payload : {}));
  }, [one.value]);
  const toText = () => {
    setText(pretty(payloadOf(fields ?? [], draft ?? {}).payload));
    setAsText(true);
  };
  const submit = async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    setRemedy(null);
    let payload;
    if (isForm) {
      const made = payloadOf(fields ?? [], draft ?? {});
      setProblems(made.problems);
      if (Object.keys(made.problems).length > 0)
        return setProblem("Some fields have a value that is not valid.");
      payload = made.payload;
    } else {
      try {
        payload = JSON.parse(text);
      } catch (error) {
        return setProblem(`The payload is not JSON: ${error.message}`);
      }
    }
    setBusy(true);
    const words = tags
      .split(",")
      .map((tag) => tag.trim())
      .filter(Boolean);
    try {
      const job = await api.create({
        body: {
          workspace_id: workspaceId,
          job_type: type.trim(),
          payload,
          ...(delay && { delay_seconds: Number(delay) }),
          ...(like && ofLike(like)),
          ...(words.length > 0 && { tags: words }),
        },
      });
      if (job.warning) notify(job.warning);
      onClose();
      navigate(`/jobs/${job.id}`);
    } catch (error) {
      setProblem(error.message);
      setRemedy(remedyOfRefusal(error));
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${like ? "Duplicate job" : "Enqueue a job"} onClose=${onClose} wide>
    <form class="stack" onSubmit=${submit}>
      ${line("Type", type, setType, { required: true, autocomplete: "off", spellcheck: "false", class: "mono", list: listId, autofocus: !like && !given })}
      <datalist id=${listId}>
        ${names.map((name) => html`<option value=${name} key=${name}></option>`)}
      </datalist>
      ${one.value?.description && html`<p class="muted small">${one.value.description}</p>`}
      ${
        one.value &&
        !one.value.served &&
        html`<p class="notice stale" role="status">
          No worker that runs now serves this type: the job waits until one does.
        </p>`
      }
      ${
        isForm
          ? html`<fieldset class="payload-fields">
            <legend>
              Payload ${quiet("as JSON", toText)}
            </legend>
            ${
              draft &&
              fields?.map(
                (field) => html`<${Field}
                  key=${field.name}
                  field=${field}
                  value=${draft[field.name] ?? ""}
                  problem=${problems[field.name]}
                  onChange=${(/** @type {string} */ value) => setDraft((now) => ({ ...now, [field.name]: value }))} />`,
              )
            }
          </fieldset>`
          : html`
            <label class="field">
              <span>Payload (JSON)</span>
              <textarea
                rows="8"
                class="mono"
                spellcheck="false"
                value=${text}
                onInput=${(/** @type {{target: HTMLTextAreaElement}} */ event) => setText(event.target.value)}></textarea>
            </label>
            ${
              fields &&
              html`<button type="button" class="quiet self-start" onClick=${() => setAsText(false)}>
                As a form
              </button>`
            }
          `
      }
      <div class="field-grid">
        ${line("Delay in seconds (blank: now)", delay, setDelay, { type: "number", min: 0, step: 1 })}
        ${line("Tags (comma-separated)", tags, setTags, { autocomplete: "off" })}
      </div>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      ${
        remedy &&
        html`<p class="remedy">
          <span class="strong">What to do:</span> ${remedy.text}
          ${remedy.links.map(
            (
              link,
            ) => html` <a key=${link.href} href=${link.href} onClick=${onClose}>${link.label}</a>
            `,
          )}
        </p>`
      }
      <div class="actions">
        <button type="button" onClick=${onClose}>Close</button>
        <button type="submit" class="primary" disabled=${busy}>Enqueue</button>
      </div>
    </form>
  <//>`;
}

/** @param {{field: SchemaField, value: string, problem?: string, onChange: (value: string) => void}} props */
function Field({ field, value, problem, onChange }) {
  const { name, kind, hint, isRequired, choices, schema } = field;
  const about = useId();
  const common = {
    "aria-describedby": hint || problem ? about : undefined,
    "aria-invalid": problem ? "true" : undefined,
    onInput: (/** @type {{target: HTMLInputElement}} */ event) => onChange(event.target.value),
  };
  const input =
    kind === "choice" || kind === "flag"
      ? html`<select
        value=${value}
        ...${common}
        onChange=${(/** @type {{target: HTMLSelectElement}} */ event) => onChange(event.target.value)}>
        <option value="">${isRequired ? "choose" : "omit"}</option>
        ${(kind === "flag" ? ["true", "false"] : choices).map(
          (one) => html`<option
            value=${String(one)}
            key=${String(one)}
            selected=${String(one) === value}>
            ${kind === "flag" ? (one === "true" ? "yes" : "no") : String(one)}
          </option>`,
        )}
      </select>`
      : kind === "long" || kind === "json"
        ? html`<textarea
          rows=${kind === "json" ? 3 : 4}
          class=${kind === "json" ? "mono" : ""}
          value=${value}
          ...${common}></textarea>`
        : html`<input
          type=${kind === "number" ? "number" : "text"}
          step=${schema.type === "integer" ? "1" : "any"}
          autocomplete="off"
          value=${value}
          ...${common} />`;
  return html`<label class="field">
    <span>
      <span class="mono">${name}</span>
      ${isRequired ? html` <span class="muted">required</span>` : ""}
      ${kind === "json" ? html` <span class="muted">JSON</span>` : ""}
    </span>
    ${input}
    ${
      (hint || problem) &&
      html`<span id=${about} class=${problem ? "problem small" : "muted small"}>
        ${problem ? `${name} ${problem}` : hint}
      </span>`
    }
  </label>`;
}
