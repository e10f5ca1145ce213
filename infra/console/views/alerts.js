// Alerts of a workspace: which thresholds are watched, which are exceeded, and who hears of it.

import { types } from "../api.js";
import { counted, duration, number, percent } from "../lib/format.js";
import { usePolling, useRead } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { alerts } from "../operations.js";
import { Tag } from "../parts/badge.js";
import { DialogForm } from "../parts/dialog-form.js";
import { ownerOf } from "../parts/facts.js";
import { check, choice, field } from "../parts/field.js";
import { listed } from "../parts/live-list.js";
import { Empty } from "../parts/states-of-view.js";
import { actionsOn, notify } from "../parts/toasts.js";
import { When } from "../parts/when.js";
import { SwitchedActions } from "../parts/switched.js";
import { column, heading } from "../parts/table.js";
import { opener, pageHead } from "../parts/page-head.js";

/** @import { Workspace } from "../api.js" */
/** @import { Alert, AlertBody, AlertMetric, JobTypeLine } from "../lib/routes.js" */

export const title = () => "Alerts";

const EVERY_MS = 15_000;
/** By the last word of a metric's name. @type {Record<string, [(value: number) => string, string]>} */
const UNITS = {
  share: [percent, "0 to 1"],
  seconds: [(value) => duration(value * 1000), "seconds"],
};
const unitOf = (/** @type {string} */ metric) =>
  UNITS[metric.split("_").at(-1) ?? ""] ?? [number, "jobs"];
const written = (/** @type {string} */ metric, /** @type {number | null} */ value) =>
  value === null || value === undefined ? "–" : unitOf(metric)[0](value);
/** How a post is written. @type {Record<string, string>} */
const POSTS = { slack: "Slack", json: "JSON" };
const capital = (/** @type {string} */ words) => words.charAt(0).toUpperCase() + words.slice(1);

/** @param {{workspace: Workspace}} props */
export default function Alerts({ workspace }) {
  const read = useRead((signal) => alerts.list(workspace.id, signal), [workspace.id]);
  const [editing, setEditing] = useState(/** @type {Partial<Alert> | null} */ (null));
  usePolling(read, EVERY_MS);
  const metrics = read.value?.metrics ?? [];
  const wordsOf = (/** @type {string} */ metric) =>
    capital(metrics.find((one) => one.name === metric)?.words ?? metric);
  const mayManage = workspace.role === "manager";
  const act = actionsOn(read.refresh);
  const remove = (/** @type {Alert} */ one) =>
    act("Could not delete", () => alerts.remove(workspace.id, one.name), `${one.name} is deleted`, {
      title: `Delete ${one.name}?`,
      text: "It is no longer announced.",
      action: "Delete the alert",
      danger: true,
    });
  return html`<div class="page">
    ${pageHead("Alerts", workspace.name, mayManage && opener("Add an alert", () => setEditing({})))}
    <section class="card" aria-label="Alerts">
      ${listed(
        {
          of: read,
          label: "Alerts",
          rows: read.value?.alerts,
          key: (one) => one.id,
          cards: true,
          empty: html`<${Empty} title="No alerts">
            A threshold that is reached sends <code>alert.raised</code> to the workspace's webhooks, signed, posts to Slack, and writes to the members you name. All are notified when it ends.
          <//>`,
        },
        [
          heading(
            "Name",
            "wrap",
            (one) => html`
              ${one.name}
              ${ownerOf(workspace, one)}
              <span class="muted small one-line phone-lines">
                ${wordsOf(one.metric)}
                ${one.job_type && html` of <span class="mono">${one.job_type}</span>`}
                ${one.whole && " of all workspaces"}, ${counted(one.minutes, "minute")}
              </span>
            `,
          ),
          column("State", (one) =>
            !one.enabled
              ? html`<${Tag} tone="pending">Off<//>`
              : one.raised_at
                ? html`
                  <${Tag} tone="failed">Raised<//> <${When} at=${one.raised_at} />
                `
                : html`<${Tag} tone="completed">
                  OK
                <//>`,
          ),
          column("Value", "num", (one) => written(one.metric, one.value)),
          column("Threshold", "num", (one) => written(one.metric, one.threshold)),
          column("Checked", (one) => html`<${When} at=${one.checked_at} />`),
          column(
            "Goes to",
            "wrap",
            (one) =>
              [...one.mail, one.post && `${POSTS[one.post.format]} at ${one.post.host}`]
                .filter(Boolean)
                .join(", ") || "webhooks only",
          ),
          column(
            "Actions",
            "num row-actions",
            (one) =>
              mayManage &&
              html`<${SwitchedActions}
                name=${one.name}
                isOn=${one.enabled}
                onSwitch=${() => act("Could not change", () => alerts.put(workspace.id, one.name, { body: { ...asPut(one), enabled: !one.enabled } }), `${one.name} is ${one.enabled ? "off" : "on"}`)}
                onEdit=${() => setEditing(one)}
                onDelete=${() => remove(one)} />`,
          ),
        ],
      )}
    </section>
    ${
      editing &&
      html`<${Editor}
        like=${editing}
        metrics=${metrics}
        workspace=${workspace}
        onClose=${(/** @type {boolean} */ saved) => {
          setEditing(null);
          if (saved) read.refresh();
        }} />`
    }
  </div>`;
}

/** @type {(keyof Alert)[]} */
const EDITABLE = ["metric", "job_type", "threshold", "minutes", "mail", "enabled", "whole"];
const asPut = (/** @type {Alert} */ alert) =>
  /** @type {AlertBody} */ (Object.fromEntries(EDITABLE.map((name) => [name, alert[name]])));

/** @param {{like: Partial<Alert>, metrics: AlertMetric[], workspace: Workspace, onClose: (saved: boolean) => void}} props */
function Editor({ like, metrics, workspace, onClose }) {
  const [draft, setDraft] = useState({
    name: like.name ?? "",
    metric: like.metric ?? "failure_share",
    job_type: like.job_type ?? "",
    threshold: String(like.threshold ?? ""),
    minutes: String(like.minutes ?? 15),
    mail: like.mail ?? [],
    format: like.post?.format ?? "",
    url: "",
  });
  const known = useRead((signal) => types.list(workspace.id, signal), [workspace.id]);
  const members = useRead(() => alerts.addresses(workspace.id), [workspace.id]);
  const set =
    (/** @type {keyof typeof draft} */ name) => (/** @type {string | string[]} */ value) =>
      setDraft((now) => ({ ...now, [name]: value }));
  const save = async () => {
    const { url, format, name: typed, ...rest } = draft;
    const name = typed.trim();
    const isKept = like.post && like.post.format === format && !url;
    await alerts.put(workspace.id, name, {
      body: {
        ...(like.id && { enabled: like.enabled, whole: like.whole }),
        ...rest,
        ...(!isKept && {
          post: format ? { format: /** @type {"slack" | "json"} */ (format), url } : null,
        }),
        job_type: draft.job_type || null,
        threshold: Number(draft.threshold),
        minutes: Number(draft.minutes),
      },
    });
    notify(`${name} is saved`);
    onClose(true);
  };
  return html`<${DialogForm}
    title=${like.id ? `Edit ${like.name}` : "Add an alert"}
    action="Save"
    run=${save}
    onClose=${() => onClose(false)}>
    ${field("Name", draft.name, set("name"), { required: true, maxlength: 100, readonly: Boolean(like.id), autofocus: !like.id })}
    ${choice(
      "Watch",
      draft.metric,
      set("metric"),
      metrics
        .filter((one) => !one.whole || like.whole)
        .map((one) => [one.name, capital(one.words)]),
    )}
    ${choice("Of type", draft.job_type, set("job_type"), [
      ["", "all types"],
      .../** @type {JobTypeLine[]} */ (known.value?.types ?? []).map(
        ({ job_type }) => /** @type {[string, string]} */ ([job_type, job_type]),
      ),
    ])}
    <div class="field-grid">
      ${field(`Threshold, ${unitOf(draft.metric)[1]}`, draft.threshold, set("threshold"), { type: "number", required: true, min: 0, step: "any" })}
      ${field("Within, minutes", draft.minutes, set("minutes"), { type: "number", required: true, min: 1, max: 1440, step: 1 })}
    </div>
    ${
      members.value &&
      members.value.length > 0 &&
      html`<fieldset class="payload-fields">
        <legend>Mail</legend>
        ${members.value.map((address) =>
          check(address, draft.mail.includes(address), (isOn) =>
            set("mail")(
              isOn ? [...draft.mail, address] : draft.mail.filter((one) => one !== address),
            ),
          ),
        )}
      </fieldset>`
    }
    <div class="field-grid">
      ${choice("Post to", draft.format, set("format"), [
        ["", "nowhere"],
        ["slack", "Slack, incoming webhook"],
        ["json", "JSON"],
      ])}
      ${
        draft.format &&
        field("Address", draft.url, set("url"), {
          inputmode: "url",
          autocomplete: "off",
          maxlength: 2000,
          required: like.post?.format !== draft.format,
          placeholder:
            like.post?.format === draft.format
              ? `kept, at ${like.post?.host}`
              : draft.format === "slack"
                ? "https://hooks.slack.com/services/…"
                : "https://…",
        })
      }
    </div>
  <//>`;
}
