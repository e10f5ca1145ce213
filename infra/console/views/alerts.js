// Alerts of a workspace: which thresholds are watched, which are exceeded, and who hears of it.

import { alerts, people, types } from "../api.js";
import { counted, duration, number, percent } from "../lib/format.js";
import { usePolling, useRead } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { Tag } from "../parts/badge.js";
import { ActionButton, confirm, Dialog } from "../parts/dialog.js";
import { Empty, Failed, Loading } from "../parts/states-of-view.js";
import { actionsOn, notify } from "../parts/toasts.js";
import { When } from "../parts/when.js";

/** @import { Workspace } from "../api.js" */
/** @import { Alert, AlertMetric, JobTypeLine } from "../lib/routes.js" */

export const title = () => "Alerts";

const EVERY_MS = 15_000;
/** @type {Record<AlertMetric, [word: string, written: (value: number) => string, unit: string]>} */
const METRICS = {
  failed: ["Failed jobs", number, "jobs"],
  failure_share: ["Share of failed jobs", percent, "0 to 1"],
  queue_p95_seconds: ["Queue time, p95", (value) => duration(value * 1000), "seconds"],
  oldest_due_seconds: ["Age of the oldest due job", (value) => duration(value * 1000), "seconds"],
  queued: ["Jobs that are due", number, "jobs"],
};
const written = (/** @type {AlertMetric} */ metric, /** @type {number | null} */ value) =>
  value === null || value === undefined ? "–" : METRICS[metric][1](value);

/** @param {{workspace: Workspace}} props */
export default function Alerts({ workspace }) {
  const read = useRead((signal) => alerts.list(workspace.id, signal), [workspace.id]);
  const [editing, setEditing] = useState(/** @type {Partial<Alert> | null} */ (null));
  usePolling(read, EVERY_MS);
  const mayManage = workspace.role === "manager";
  const act = actionsOn(read.refresh);
  const remove = async (/** @type {Alert} */ one) => {
    if (
      await confirm({
        title: `Delete ${one.name}?`,
        text: "It is no longer announced.",
        action: "Delete the alert",
        danger: true,
      })
    )
      await act(
        "Not deleted",
        () => alerts.remove(workspace.id, one.name),
        `${one.name} is deleted`,
      );
  };
  return html`<div class="page"><header class="page-head"><h1 tabindex="-1">Alerts</h1><span class="muted">${workspace.name}</span><span class="spacer"></span>
      ${mayManage && html`<button type="button" onClick=${() => setEditing({})}>Add an alert</button>`}</header>
    <section class="card" aria-label="Alerts">
    ${
      !read.value
        ? read.error
          ? html`<${Failed} error=${read.error} retry=${read.refresh} what="The alerts could not be read" />`
          : html`<${Loading} what="Reading alerts" />`
        : read.value.length === 0
          ? html`<${Empty} title="No alerts">A threshold that is reached sends <code>alert.raised</code> to the workspace's webhooks, signed, and writes to the members you name. Both are notified when it ends.<//>`
          : html`<div class="scroll-x" tabindex="0" role="group" aria-label="Alerts"><table class="table"><thead><tr><th scope="col">Name</th><th scope="col">State</th><th scope="col" class="num">Value</th><th scope="col" class="num">Threshold</th><th scope="col" class="phone-less">Checked</th><th scope="col" class="phone-less">Mail</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
        <tbody>${read.value.map(
          (
            one,
          ) => html`<tr key=${one.id}><th scope="row" class="wrap">${one.name}<span class="muted small one-line phone-lines">${METRICS[one.metric][0]}${one.job_type && html` of <span class="mono">${one.job_type}</span>`}${one.whole && " of all workspaces"}, ${counted(one.minutes, "minute")}</span></th>
          <td>${!one.enabled ? html`<${Tag} tone="pending">Off<//>` : one.raised_at ? html`<${Tag} tone="failed">Raised<//> <${When} at=${one.raised_at} />` : html`<${Tag} tone="completed">OK<//>`}</td>
          <td class="num">${written(one.metric, one.value)}</td><td class="num">${written(one.metric, one.threshold)}</td><td class="phone-less"><${When} at=${one.checked_at} /></td><td class="wrap phone-less">${one.mail.join(", ") || "webhooks only"}</td>
          <td class="num row-actions">${
            mayManage &&
            html`<${ActionButton} className="quiet" aria-label=${`${one.enabled ? "Switch off" : "Switch on"} ${one.name}`} run=${() => act("Not changed", () => alerts.put(workspace.id, { ...asPut(one), enabled: !one.enabled }), `${one.name} is ${one.enabled ? "off" : "on"}`)}>${one.enabled ? "Switch off" : "Switch on"}<//>
            <button type="button" class="quiet" aria-label=${`Edit ${one.name}`} onClick=${() => setEditing(one)}>Edit</button><button type="button" class="quiet" aria-label=${`Delete ${one.name}`} onClick=${() => remove(one)}>Delete</button>`
          }</td></tr>`,
        )}</tbody></table></div>`
    }
    </section>
    ${
      editing &&
      html`<${Editor} like=${editing} workspace=${workspace} onClose=${(
        /** @type {boolean} */ saved,
      ) => {
        setEditing(null);
        if (saved) read.refresh();
      }} />`
    }
  </div>`;
}

/** @param {Alert} alert */
const asPut = ({ name, metric, job_type, threshold, minutes, mail, enabled, whole }) => ({
  name,
  metric,
  job_type,
  threshold,
  minutes,
  mail,
  enabled,
  whole,
});

/** @param {{like: Partial<Alert>, workspace: Workspace, onClose: (saved: boolean) => void}} props */
function Editor({ like, workspace, onClose }) {
  const [draft, setDraft] = useState({
    name: like.name ?? "",
    metric: like.metric ?? "failure_share",
    job_type: like.job_type ?? "",
    threshold: String(like.threshold ?? ""),
    minutes: String(like.minutes ?? 15),
    mail: like.mail ?? [],
  });
  const [problem, setProblem] = useState(/** @type {string | null} */ (null));
  const [busy, setBusy] = useState(false);
  const known = useRead((signal) => types.list(workspace.id, signal), [workspace.id]);
  const members = useRead(() => alerts.addresses(workspace.id, people), [workspace.id]);
  const change = (/** @type {keyof typeof draft} */ name, /** @type {string | string[]} */ value) =>
    setDraft((now) => ({ ...now, [name]: value }));
  const save = async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await alerts.put(workspace.id, {
        ...(like.id && { enabled: like.enabled, whole: like.whole }),
        ...draft,
        name: draft.name.trim(),
        job_type: draft.job_type || null,
        threshold: Number(draft.threshold),
        minutes: Number(draft.minutes),
      });
      notify(`${draft.name.trim()} is saved`);
      onClose(true);
    } catch (error) {
      setProblem(error.message);
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${like.id ? `Edit ${like.name}` : "Add an alert"} onClose=${() => onClose(false)}>
    <form class="stack" onSubmit=${save}>
      <label class="field"><span>Name</span><input type="text" required maxlength="100" readonly=${Boolean(like.id)} autofocus=${!like.id} value=${draft.name} onInput=${(/** @type {{target: HTMLInputElement}} */ event) => change("name", event.target.value)} /></label>
      <label class="field"><span>Watch</span><select value=${draft.metric} onChange=${(/** @type {{target: HTMLSelectElement}} */ event) => change("metric", event.target.value)}>${Object.entries(METRICS).map(([metric, [word]]) => html`<option value=${metric} key=${metric}>${word}</option>`)}</select></label>
      <label class="field"><span>Of type</span><select value=${draft.job_type} onChange=${(/** @type {{target: HTMLSelectElement}} */ event) => change("job_type", event.target.value)}><option value="">all types</option>${known.value?.types.map((/** @type {JobTypeLine} */ one) => html`<option value=${one.job_type} key=${one.job_type}>${one.job_type}</option>`)}</select></label>
      <div class="field-grid"><label class="field"><span>Threshold, ${METRICS[draft.metric][2]}</span><input type="number" required min="0" step="any" value=${draft.threshold} onInput=${(/** @type {{target: HTMLInputElement}} */ event) => change("threshold", event.target.value)} /></label>
        <label class="field"><span>Within, minutes</span><input type="number" required min="1" max="1440" step="1" value=${draft.minutes} onInput=${(/** @type {{target: HTMLInputElement}} */ event) => change("minutes", event.target.value)} /></label></div>
      ${members.value && members.value.length > 0 && html`<fieldset class="payload-fields"><legend>Mail</legend>${members.value.map((address) => html`<label class="check" key=${address}><input type="checkbox" checked=${draft.mail.includes(address)} onChange=${(/** @type {{target: HTMLInputElement}} */ event) => change("mail", event.target.checked ? [...draft.mail, address] : draft.mail.filter((one) => one !== address))} /> ${address}</label>`)}</fieldset>`}
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <div class="actions"><button type="button" onClick=${() => onClose(false)}>Close</button><button type="submit" class="primary" disabled=${busy}>Save</button></div>
    </form>
  <//>`;
}
