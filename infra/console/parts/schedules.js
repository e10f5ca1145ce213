// Schedules of a workspace: what the clock enqueues, when next, and how to change that.

import { operations } from "../api.js";
import { pretty, shortId, utc } from "../lib/format.js";
import { useRead } from "../lib/store.js";
import { html, useEffect, useState } from "../lib/ui.js";
import { Tag } from "./badge.js";
import { ActionButton, confirm, Dialog } from "./dialog.js";
import { Empty, Failed, Loading } from "./states-of-view.js";
import { actionsOn, notify } from "./toasts.js";
import { When } from "./when.js";

/** @import { Workspace } from "../api.js" */
/** @import { Schedule, ScheduleBody } from "../lib/routes.js" */
/** @typedef {Record<"name" | "cron" | "timezone" | "job_type" | "payload" | "missed", string>} Draft */

/** @type {(keyof Schedule)[]} */
const EDITABLE = [
  "name",
  "cron",
  "timezone",
  "job_type",
  "payload",
  "options",
  "missed",
  "enabled",
];
const asPut = (/** @type {Schedule} */ schedule) =>
  /** @type {ScheduleBody & {name: string}} */ (
    Object.fromEntries(EDITABLE.map((name) => [name, schedule[name]]))
  );

/** @param {{workspace: Workspace}} props */
export function Schedules({ workspace }) {
  const list = useRead(() => operations.schedules(workspace.id), [workspace.id]);
  const [editing, setEditing] = useState(/** @type {Partial<Schedule> | null} */ (null));
  const mayManage = workspace.role === "manager";
  const act = actionsOn(list.refresh);
  const remove = async (/** @type {Schedule} */ schedule) => {
    if (
      await confirm({
        title: `Delete ${schedule.name}?`,
        text: "It enqueues nothing more; the jobs it made stay.",
        action: "Delete the schedule",
        danger: true,
      })
    )
      await act(
        "Not deleted",
        () => operations.deleteSchedule(workspace.id, schedule.name),
        `${schedule.name} is deleted`,
      );
  };
  const head = html`<div class="bar"><h2 id="h-schedules">Schedules</h2><span class="spacer"></span>${mayManage && html`<button type="button" class="quiet" onClick=${() => setEditing({})}>Add a schedule</button>`}</div>`;
  return html`<section class="card" aria-labelledby="h-schedules">${head}
    ${
      !list.value
        ? list.error
          ? html`<${Failed} error=${list.error} retry=${list.refresh} what="The schedules could not be read" />`
          : html`<${Loading} what="Reading schedules" />`
        : list.value.length === 0
          ? html`<${Empty} title="No schedules">Jobs that are enqueued at set times are listed here with their next run.<//>`
          : html`<div class="scroll-x" tabindex="0" role="group" aria-label="Schedules"><table class="table"><thead><tr><th scope="col">Name</th><th scope="col">When</th><th scope="col">Job</th><th scope="col">Next run</th><th scope="col">Last job</th><th scope="col">State</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
        <tbody>${list.value.map(
          (
            one,
          ) => html`<tr key=${one.id}><th scope="row">${one.name}</th><td class="mono small">${one.cron} <span class="muted">${one.timezone}</span></td><td>${one.job_type}</td>
          <td>${one.enabled ? html`<${When} at=${one.next_at} />` : "–"}</td><td>${one.last_job_id ? html`<a class="mono" href=${`/jobs/${one.last_job_id}`}>${shortId(one.last_job_id)}</a>` : "–"}</td>
          <td>${one.problem ? html`<${Tag} tone="failed">Problem<//> <span class="wrap">${one.problem}</span>` : one.enabled ? html`<${Tag} tone="completed">On<//>` : html`<${Tag} tone="pending">Off<//>`}</td>
          <td class="num">${
            mayManage &&
            html`<${ActionButton} className="quiet" aria-label=${`${one.enabled ? "Switch off" : "Switch on"} ${one.name}`} run=${() => act("Not changed", () => operations.putSchedule(workspace.id, { ...asPut(one), enabled: !one.enabled }), `${one.name} is ${one.enabled ? "off" : "on"}`)}>${one.enabled ? "Switch off" : "Switch on"}<//>
            <button type="button" class="quiet" aria-label=${`Edit ${one.name}`} onClick=${() => setEditing(one)}>Edit</button><button type="button" class="quiet" aria-label=${`Delete ${one.name}`} onClick=${() => remove(one)}>Delete</button>`
          }</td></tr>`,
        )}</tbody></table></div>`
    }
    ${
      editing &&
      html`<${Editor} like=${editing} workspaceId=${workspace.id} onClose=${(
        /** @type {boolean} */ saved,
      ) => {
        setEditing(null);
        if (saved) list.refresh();
      }} />`
    }
  </section>`;
}

const LOOKS_WHOLE = /^\s*(@\w+|\S+(\s+\S+){4})\s*$/;
const TYPING_MS = 400;

/**
 * When an expression will run, while it is being typed.
 *
 * @param {{workspaceId: string, cron: string, timezone: string}} props
 */
function NextRuns({ workspaceId, cron, timezone }) {
  const [wanted, setWanted] = useState({ cron, timezone });
  useEffect(() => {
    const timer = setTimeout(() => setWanted({ cron, timezone }), TYPING_MS);
    return () => clearTimeout(timer);
  }, [cron, timezone]);
  const isWhole = LOOKS_WHOLE.test(wanted.cron) && wanted.timezone.trim() !== "";
  const runs = useRead(
    (signal) =>
      isWhole
        ? operations.nextRuns(workspaceId, { ...wanted, count: 3 }, signal)
        : Promise.resolve(null),
    [workspaceId, wanted.cron, wanted.timezone],
  );
  const text = runs.error
    ? runs.error.message
    : runs.value
      ? runs.value.map((at) => utc(at).replace(":00.000", "")).join(" · ") || "never"
      : "…";
  return html`<p class="hint num" aria-live="polite">Next runs: ${isWhole ? text : "…"}</p>`;
}

/**
 * @param {{like: Partial<Schedule>, workspaceId: string, onClose: (saved: boolean) => void}} props `like` is the
 *   schedule to change; empty for a new one.
 */
function Editor({ like, workspaceId, onClose }) {
  const [draft, setDraft] = useState(
    /** @type {Draft} */ ({
      name: like.name ?? "",
      cron: like.cron ?? "0 * * * *",
      timezone: like.timezone ?? Intl.DateTimeFormat().resolvedOptions().timeZone ?? "UTC",
      job_type: like.job_type ?? "",
      payload: pretty(like.payload ?? {}),
      missed: like.missed ?? "once",
    }),
  );
  const [problem, setProblem] = useState(/** @type {string | null} */ (null));
  const [busy, setBusy] = useState(false);
  const change = (
    /** @type {keyof Draft} */ name,
    /** @type {{target: {value: string}}} */ { target: { value } },
  ) => setDraft((now) => ({ ...now, [name]: value }));
  const field = (/** @type {keyof Draft} */ name, /** @type {string} */ label, more = {}) =>
    html`<label class="field"><span>${label}</span><input type="text" required value=${draft[name]} onInput=${(/** @type {{target: HTMLInputElement}} */ event) => change(name, event)} ...${more} /></label>`;
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setBusy(true);
    try {
      const made = await operations.putSchedule(workspaceId, {
        ...(like.id && asPut(/** @type {Schedule} */ (like))),
        ...draft,
        payload: JSON.parse(draft.payload),
      });
      notify(`${made.name} is saved`);
      onClose(true);
    } catch (error) {
      setProblem(error.message);
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${like.id ? `Edit ${like.name}` : "Add a schedule"} onClose=${() => onClose(false)}>
    <form class="stack" onSubmit=${save}>
      ${field("name", "Name", { readonly: Boolean(like.id), autofocus: !like.id })}${field("cron", "Cron: minute hour day month weekday", { class: "mono", autofocus: Boolean(like.id) })}${field("timezone", "Time zone")}
      <${NextRuns} workspaceId=${workspaceId} cron=${draft.cron} timezone=${draft.timezone} />${field("job_type", "Job type", { class: "mono" })}
      <label class="field"><span>Payload, JSON</span><textarea rows="4" class="mono" value=${draft.payload} onInput=${(/** @type {{target: HTMLTextAreaElement}} */ event) => change("payload", event)}></textarea></label>
      <label class="field"><span>Missed runs</span><select value=${draft.missed} onChange=${(/** @type {{target: HTMLSelectElement}} */ event) => change("missed", event)}><option value="once">run once</option><option value="skip">are skipped</option><option value="all">all run</option></select></label>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <div class="actions"><button type="button" onClick=${() => onClose(false)}>Close</button><button type="submit" class="primary" disabled=${busy}>Save</button></div>
    </form>
  <//>`;
}
