// Form that enqueues a job from its type's schema, or a duplicate of an existing job.

import { jobs as api, types } from "../api.js";
import { parsePayload, pretty } from "../lib/format.js";
import { navigate } from "../lib/router.js";
import { draftOf, fieldsOf, payloadOf } from "../lib/schema-form.js";
import { useFetch } from "../lib/store.js";
import { html, quietButton, useEffect, useId, useState } from "../lib/ui.js";
import { DialogForm } from "./dialog.js";
import { area, field as line } from "./field.js";

const NAME_ATTRIBUTES = { required: true, autocomplete: "off", spellcheck: "false", class: "mono" };
const COPIED_FIELDS = [
  "queue",
  "priority",
  "max_attempts",
  "concurrency_key",
  "session_id",
  "timeout_seconds",
  "start_by_seconds",
  "schema_version",
  "tags",
];

/** Return the options that a duplicate copies, without keys and relatives. */
const copiedOptions = (job) =>
  Object.fromEntries(
    COPIED_FIELDS.filter(
      (name) => job[name] !== null && job[name] !== undefined && job[name].length !== 0,
    ).map((name) => [name, job[name]]),
  );

export function EnqueueDialog({ workspaceId, like, type: given, onClose }) {
  const [type, setType] = useState(like?.job_type ?? given ?? "");
  const [text, setText] = useState(pretty(like?.payload ?? {}));
  const [draft, setDraft] = useState(null);
  const [asText, setAsText] = useState(false);
  const [delay, setDelay] = useState("");
  const [tags, setTags] = useState((like?.tags ?? []).join(", "));
  const [problems, setProblems] = useState({});
  const listId = useId();
  const known = useFetch((signal) => types.list(workspaceId, signal), [workspaceId]);
  const names = (known.value ?? [])
    .filter(({ internal }) => !internal)
    .map(({ job_type }) => job_type);
  const chosen = names.includes(type.trim()) ? type.trim() : null;
  const typeRead = useFetch(
    (signal) => (chosen ? types.get(workspaceId, chosen, signal) : Promise.resolve(null)),
    [workspaceId, chosen],
  );
  const fields = typeRead.value?.payload_schema ? fieldsOf(typeRead.value.payload_schema) : null;
  const isForm = fields !== null && !asText;
  useEffect(() => {
    if (fields) setDraft(draftOf(fields, like?.job_type === chosen ? like.payload : {}));
  }, [typeRead.value]);
  const toText = () => {
    setText(pretty(payloadOf(fields, draft ?? {}).payload));
    setAsText(true);
  };
  const readPayload = () => {
    if (!isForm) return parsePayload(text);
    const made = payloadOf(fields, draft ?? {});
    setProblems(made.problems);
    if (Object.keys(made.problems).length > 0) throw new Error("Some fields have invalid values.");
    return made.payload;
  };
  const run = async () => {
    const words = tags.split(",").map((tag) => tag.trim());
    const body = {
      workspace_id: workspaceId,
      job_type: type.trim(),
      payload: readPayload(),
      ...(delay && { delay_seconds: Number(delay) }),
      ...(like && copiedOptions(like)),
      tags: words.filter(Boolean),
    };
    const job = await api.create({ body });
    onClose();
    navigate(`/jobs/${job.id}`);
  };
  const typeOptions = { ...NAME_ATTRIBUTES, list: listId, autofocus: !like && !given };
  return html`<${DialogForm}
    title=${like ? "Duplicate job" : "Enqueue a job"}
    action="Enqueue"
    run=${run}
    onClose=${onClose}
    wide>
      ${line("Type", type, setType, typeOptions)}
      <datalist id=${listId}>
        ${names.map((name) => html`<option value=${name} key=${name}></option>`)}
      </datalist>
      ${typeRead.value?.description && html`<p class="muted small">${typeRead.value.description}</p>`}
      ${
        typeRead.value &&
        !typeRead.value.served &&
        html`<p class="notice stale" role="status">
          No running worker serves this type. The job waits until one does.
        </p>`
      }
      ${
        isForm
          ? html`<fieldset class="payload-fields">
            <legend>
              Payload ${quietButton("as JSON", toText)}
            </legend>
            ${
              draft &&
              fields?.map(
                (field) => html`<${Field}
                  key=${field.name}
                  field=${field}
                  value=${draft[field.name] ?? ""}
                  problem=${problems[field.name]}
                  onChange=${(value) => setDraft((now) => ({ ...now, [field.name]: value }))} />`,
              )
            }
          </fieldset>`
          : html`
            ${area("Payload (JSON)", text, setText)}
            ${
              fields &&
              html`<button type="button" class="quiet" onClick=${() => setAsText(false)}>
                As a form
              </button>`
            }
          `
      }
      <div class="field-grid">
        ${line("Delay in seconds (blank: now)", delay, setDelay, {
          type: "number",
          min: 0,
          step: 1,
        })}
        ${line("Tags (comma-separated)", tags, setTags, { autocomplete: "off" })}
      </div>
  <//>`;
}

function Field({ field, value, problem, onChange }) {
  const { name, kind, hint, isRequired, choices, schema } = field;
  const about = useId();
  const common = {
    "aria-describedby": hint || problem ? about : undefined,
    "aria-invalid": problem ? "true" : undefined,
    onInput: (event) => onChange(event.target.value),
  };
  const input =
    kind === "choice" || kind === "flag"
      ? html`<select
        value=${value}
        ...${common}
        onChange=${(event) => onChange(event.target.value)}>
        <option value="">${isRequired ? "choose" : "omit"}</option>
        ${(kind === "flag" ? ["true", "false"] : choices).map(
          (option) => html`<option
            value=${String(option)}
            key=${String(option)}
            selected=${String(option) === value}>
            ${kind === "flag" ? (option === "true" ? "yes" : "no") : String(option)}
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
