// Form in which a person enqueues a job of a chosen type.

import { jobs as api, types } from "../api.js";
import { parsePayload, pretty } from "../lib/format.js";
import { navigate } from "../lib/router.js";
import { useFetch } from "../lib/store.js";
import { html, useId, useState } from "../lib/ui.js";
import { DialogForm } from "./dialog.js";
import { area, field } from "./field.js";

const NAME_ATTRIBUTES = { required: true, autocomplete: "off", spellcheck: "false", class: "mono" };

/**
 * Return a draft of a payload. In the draft, each field of the payload's schema has its default
 * value, and required fields without a default are null.
 */
const draftOf = ({ properties = {}, required = [] } = {}) =>
  Object.fromEntries(
    Object.entries(properties)
      .filter(([name, value]) => "default" in value || required.includes(name))
      .map(([name, { default: value = null }]) => [name, value]),
  );

export function EnqueueDialog({ workspaceId, type: initialType = "", onClose }) {
  const [type, setType] = useState(initialType);
  const [typed, setTyped] = useState(null); // text of the payload, if a person changed it
  const [delay, setDelay] = useState("");
  const [tags, setTags] = useState("");
  const listId = useId();
  const known = useFetch((signal) => types.list(workspaceId, signal), [workspaceId]);
  const names = (known.value ?? [])
    .filter(({ internal }) => !internal)
    .map(({ job_type }) => job_type);
  const chosen = names.includes(type.trim()) ? type.trim() : null;
  const { value: details } = useFetch(
    (signal) => (chosen ? types.get(workspaceId, chosen, signal) : Promise.resolve(null)),
    [workspaceId, chosen],
  );
  const text = typed ?? pretty(draftOf(details?.payload_schema ?? {}));
  const run = async () => {
    const words = tags.split(",").map((tag) => tag.trim());
    const body = {
      workspace_id: workspaceId,
      job_type: type.trim(),
      payload: parsePayload(text),
      ...(delay && { delay_seconds: Number(delay) }),
      tags: words.filter(Boolean),
    };
    const job = await api.create({ body });
    onClose();
    navigate(`/jobs/${job.id}`);
  };
  return html`<${DialogForm}
    title="Enqueue a job"
    action="Enqueue"
    run=${run}
    onClose=${onClose}
    wide>
      ${field("Type", type, setType, { ...NAME_ATTRIBUTES, list: listId, autofocus: !initialType })}
      <datalist id=${listId}>
        ${names.map((name) => html`<option value=${name} key=${name}></option>`)}
      </datalist>
      ${details?.description && html`<p class="muted small">${details.description}</p>`}
      ${
        details &&
        !details.served &&
        html`<p class="notice stale" role="status">
          No running worker serves this type. The job waits until one does.
        </p>`
      }
      ${area("Payload (JSON)", text, setTyped)}
      <div class="field-grid">
        ${field("Delay in seconds (blank: now)", delay, setDelay, {
          type: "number",
          min: 0,
          step: 1,
        })}
        ${field("Tags (comma-separated)", tags, setTags, { autocomplete: "off" })}
      </div>
  <//>`;
}
