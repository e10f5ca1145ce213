// Page of a workspace's schedules, with their jobs, their next runs, and a form to edit a schedule.

import { jobs, WORKSPACE_PATH, withIdempotencyKey, route, rpc } from "../api.js";
import { local, parsePayload, pretty } from "../lib/format.js";
import { navigate } from "../lib/router.js";
import { useFetch } from "../lib/store.js";
import { html, useEffect, useState } from "../lib/ui.js";
import { StateBadge } from "../parts/badge.js";
import { DialogForm } from "../parts/dialog.js";
import { area, choice, field } from "../parts/field.js";
import { OnOff, ResourceView } from "../parts/resource.js";
import { Empty } from "../parts/states-of-view.js";
import { breakable, column, heading, jobLink, typeLink } from "../parts/table.js";
import { When } from "../parts/when.js";

export const title = () => "Schedules";

const put = route(`PUT ${WORKSPACE_PATH}/schedules/{name}`);
const remove = route(`DELETE ${WORKSPACE_PATH}/schedules/{name}`);
const MAX_READ = 200; // maximum number of jobs that one call reads

/**
 * Read the schedules of the workspace. The field `last` of a row is the last job that the schedule
 * has enqueued.
 */
async function read(workspaceId, signal) {
  const { schedules } = await rpc("list_schedules", { p_workspace_id: workspaceId }, signal);
  const ids = schedules.map((schedule) => schedule.last_job_id).filter(Boolean);
  const filter = { workspace_id: workspaceId, ids: ids.slice(0, MAX_READ) };
  const page = ids.length > 0 ? await jobs.page(filter, null, MAX_READ, signal) : { jobs: [] };
  const found = new Map(page.jobs.map((job) => [job.id, job]));
  return schedules.map((schedule) => ({
    ...schedule,
    last: found.get(schedule.last_job_id) ?? null,
  }));
}

const BODY = ["cron", "timezone", "job_type", "payload", "options", "missed", "enabled"];
const bodyOf = (schedule) =>
  Object.fromEntries(
    BODY.map((name) => [name, schedule[name]]).filter(([, value]) => value != null),
  );

export default function Schedules({ workspace }) {
  const mayManage = workspace.role === "manager";
  const runNow = async ({ job_type, payload, options }) => {
    const body = { workspace_id: workspace.id, job_type, payload, ...options };
    navigate(`/jobs/${(await jobs.create(withIdempotencyKey(body))).id}`);
  };
  return html`<${ResourceView}
    name="Schedules"
    read=${(signal) => read(workspace.id, signal)}
    inputs=${[workspace.id]}
    rowKey=${(schedule) => schedule.name}
    columns=${[
      heading("Name", "wrap strong", (schedule) => breakable(schedule.name)),
      column("Job", "wrap", (schedule) => typeLink(schedule.job_type)),
      column(
        "When",
        "mono small nowrap",
        (schedule) => html`${schedule.cron} <br /><span class="muted">${schedule.timezone}</span>`,
      ),
      column("Next run", (schedule) =>
        !schedule.enabled
          ? "–"
          : schedule.next_at
            ? html`<${When} at=${schedule.next_at} />`
            : "never",
      ),
      column(
        "Last run",
        (schedule) =>
          html`${jobLink(schedule.last_job_id)} ${schedule.last && html`<${StateBadge} job=${schedule.last} />`}`,
      ),
      column(
        "State",
        ({ enabled, problem, updated_at: at }) => html`
          <${OnOff} isOn=${enabled} problem=${problem} />
          ${!enabled && html` <span class="muted nowrap">changed <${When} at=${at} /></span>`}
        `,
      ),
    ]}
    actions=${
      mayManage &&
      ((schedule, { act, edit }) => [
        ["Run now", () => act("Could not run the job", () => runNow(schedule))],
        [
          schedule.enabled ? "Switch off" : "Switch on",
          () =>
            act("Could not change", () =>
              put(workspace.id, schedule.name, {
                body: { ...bodyOf(schedule), enabled: !schedule.enabled },
              }),
            ),
        ],
        ["Edit", edit],
        [
          "Delete",
          () =>
            act("Could not delete", () => remove(workspace.id, schedule.name), "Deleted", {
              title: `Delete ${schedule.name}?`,
              text: "It will enqueue no more jobs. Existing jobs are kept.",
              action: "Delete the schedule",
              danger: true,
            }),
        ],
      ])
    }
    add=${
      mayManage && [
        "Add a schedule",
        (props) => html`<${Editor} workspaceId=${workspace.id} ...${props} />`,
      ]
    }
    empty=${html`<${Empty} title="No schedules">
      <p>A schedule enqueues a job at set times.</p>
      <p>Add one here, or in the code of a processor:</p>
      <p><code>@registry.processor("reports.daily", payload=dict, schedule="0 6 * * *")</code></p>
    <//>`} />`;
}

const TYPING_MS = 400;

/** Shows the next runs of a cron expression, while a person types the expression. */
function NextRuns({ workspaceId, cron, timezone }) {
  const [expression, setExpression] = useState({ cron, timezone });
  useEffect(() => {
    const timer = setTimeout(() => setExpression({ cron, timezone }), TYPING_MS);
    return () => clearTimeout(timer);
  }, [cron, timezone]);
  const runs = useFetch(
    (signal) =>
      rpc("next_runs", { p_workspace_id: workspaceId, p_schedule: expression, p_count: 3 }, signal),
    [workspaceId, expression.cron, expression.timezone],
  );
  const times = runs.value?.runs.map((at) => local(at).slice(0, 16)).join(" · ");
  return html`<p class="hint num" aria-live="polite">
    Next runs, your time: ${runs.error?.message ?? (runs.value ? times || "never" : "…")}
  </p>`;
}

/**
 * Form for a schedule. The form changes the schedule `like`. If `like` has no name, the form
 * creates a new schedule.
 */
function Editor({ like, workspaceId, onClose }) {
  const isNew = !like.name;
  const [draft, setDraft] = useState({
    name: like.name ?? "",
    cron: like.cron ?? "0 * * * *",
    timezone: like.timezone ?? Intl.DateTimeFormat().resolvedOptions().timeZone ?? "UTC",
    job_type: like.job_type ?? "",
    payload: pretty(like.payload ?? {}),
    missed: like.missed ?? "once",
  });
  const set = (name) => (value) => setDraft((now) => ({ ...now, [name]: value }));
  const line = (name, label, more = {}) =>
    field(label, draft[name], set(name), { required: true, ...more });
  const save = async () => {
    const { name, payload, ...rest } = draft;
    const body = { ...bodyOf(like), ...rest, payload: parsePayload(payload) };
    await put(workspaceId, name, { body });
    onClose();
  };
  return html`<${DialogForm}
    title=${isNew ? "Add a schedule" : `Edit ${like.name}`}
    action="Save"
    run=${save}
    onClose=${onClose}>
    ${line("name", "Name", { readonly: !isNew, autofocus: isNew })}
    ${line("cron", "Cron: minute hour day month weekday", { class: "mono" })}
    ${line("timezone", "Time zone")}
    <${NextRuns} workspaceId=${workspaceId} cron=${draft.cron} timezone=${draft.timezone} />
    ${line("job_type", "Job type", { class: "mono" })}
    ${area("Payload (JSON)", draft.payload, set("payload"))}
    ${choice("Missed runs", draft.missed, set("missed"), [
      ["once", "run once"],
      ["skip", "are skipped"],
    ])}
  <//>`;
}
