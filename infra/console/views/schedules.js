// Schedules of a workspace: what the clock enqueues, when next, and how to change that.

import { pretty, utc } from "../lib/format.js";
import { useRead } from "../lib/store.js";
import { html, useEffect, useState } from "../lib/ui.js";
import { operations } from "../operations.js";
import { DialogForm } from "../parts/dialog-form.js";
import { jobLink, SCHEDULE_COLUMNS } from "../parts/facts.js";
import { choice, field, toValue } from "../parts/field.js";
import { listed } from "../parts/live-list.js";
import { Empty } from "../parts/states-of-view.js";
import { actionsOn, notify } from "../parts/toasts.js";
import { OnOff, SwitchedActions } from "../parts/switched.js";
import { column, heading } from "../parts/table.js";
import { opener, pageHead } from "../parts/page-head.js";

/** @import { Workspace } from "../api.js" */
/** @import { Schedule, ScheduleBody } from "../lib/routes.js" */
/** @typedef {Record<"name" | "cron" | "timezone" | "job_type" | "payload" | "missed", string>} Draft */

/** @type {(keyof Schedule)[]} */
const EDITABLE = ["cron", "timezone", "job_type", "payload", "options", "missed", "enabled"];
const asPut = (/** @type {Schedule} */ schedule) =>
  /** @type {ScheduleBody} */ (Object.fromEntries(EDITABLE.map((name) => [name, schedule[name]])));

export const title = () => "Schedules";

/** @param {{workspace: Workspace}} props */
export default function Schedules({ workspace }) {
  const list = useRead(() => operations.schedules(workspace.id), [workspace.id]);
  const [editing, setEditing] = useState(/** @type {Partial<Schedule> | null} */ (null));
  const mayManage = workspace.role === "manager";
  const act = actionsOn(list.refresh);
  const remove = (/** @type {Schedule} */ { name }) =>
    act(
      "Could not delete",
      () => operations.deleteSchedule(workspace.id, name),
      `${name} is deleted`,
      {
        title: `Delete ${name}?`,
        text: "It enqueues nothing more; the jobs it made stay.",
        action: "Delete the schedule",
        danger: true,
      },
    );
  return html`<div class="page">
    ${pageHead("Schedules", workspace.name, mayManage && opener("Add a schedule", () => setEditing({})))}
    <section class="card" aria-label="Schedules">
      ${listed(
        {
          of: list,
          label: "Schedules",
          rows: list.value,
          key: (one) => one.id,
          cards: true,
          empty: html`<${Empty} title="No schedules">
            Jobs that are enqueued at set times are listed here with their next run.
          <//>`,
        },
        [
          heading(
            "Name",
            (one) => html`
              ${one.name}
            `,
          ),
          column("Job", (one) => one.job_type),
          ...SCHEDULE_COLUMNS,
          column("Last job", (one) => jobLink(one.last_job_id)),
          column("State", (one) => html`<${OnOff} isOn=${one.enabled} problem=${one.problem} />`),
          column(
            "Actions",
            "num row-actions",
            (one) =>
              mayManage &&
              html`<${SwitchedActions}
                name=${one.name}
                isOn=${one.enabled}
                onSwitch=${() => act("Could not change", () => operations.putSchedule(workspace.id, one.name, { body: { ...asPut(one), enabled: !one.enabled } }), `${one.name} is ${one.enabled ? "off" : "on"}`)}
                onEdit=${() => setEditing(one)}
                onDelete=${() => remove(one)} />`,
          ),
        ],
      )}
      ${
        editing &&
        html`<${Editor}
          like=${editing}
          workspaceId=${workspace.id}
          onClose=${(/** @type {boolean} */ saved) => {
            setEditing(null);
            if (saved) list.refresh();
          }} />`
      }
    </section>
  </div>`;
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
        ? operations.nextRuns(workspaceId, { query: { ...wanted, count: 3 }, signal })
        : Promise.resolve(null),
    [workspaceId, wanted.cron, wanted.timezone],
  );
  const text = runs.error
    ? runs.error.message
    : runs.value
      ? runs.value.runs.map((at) => utc(at).replace(":00.000", "")).join(" · ") || "never"
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
  const set = (/** @type {keyof Draft} */ name) => (/** @type {string} */ value) =>
    setDraft((now) => ({ ...now, [name]: value }));
  const line = (/** @type {keyof Draft} */ name, /** @type {string} */ label, more = {}) =>
    field(label, draft[name], set(name), { required: true, ...more });
  const save = async () => {
    const { name, payload, ...rest } = draft;
    const body = {
      ...(like.id && asPut(/** @type {Schedule} */ (like))),
      .../** @type {ScheduleBody} */ (rest),
      payload: JSON.parse(payload),
    };
    const made = await operations.putSchedule(workspaceId, name, { body });
    notify(`${made.name} is saved`);
    onClose(true);
  };
  return html`<${DialogForm}
    title=${like.id ? `Edit ${like.name}` : "Add a schedule"}
    action="Save"
    run=${save}
    onClose=${() => onClose(false)}>
    ${line("name", "Name", { readonly: Boolean(like.id), autofocus: !like.id })}
    ${line("cron", "Cron: minute hour day month weekday", { class: "mono", autofocus: Boolean(like.id) })}
    ${line("timezone", "Time zone")}
    <${NextRuns} workspaceId=${workspaceId} cron=${draft.cron} timezone=${draft.timezone} />
    ${line("job_type", "Job type", { class: "mono" })}
    <label class="field">
      <span>Payload (JSON)</span>
      <textarea rows="4" class="mono" value=${draft.payload} onInput=${toValue(set("payload"))}></textarea>
    </label>
    ${choice("Missed runs", draft.missed, set("missed"), [
      ["once", "run once"],
      ["skip", "are skipped"],
      ["all", "all run"],
    ])}
  <//>`;
}
