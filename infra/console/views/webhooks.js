// Webhooks of a workspace: their events, deliveries and secrets, which are shown once.

import { number } from "../lib/format.js";
import { useRead } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { operations } from "../operations.js";
import { StateBadge } from "../parts/badge.js";
import { quiet } from "../parts/button.js";
import { CopyId } from "../parts/copy.js";
import { ActionButton, Dialog } from "../parts/dialog.js";
import { jobLink } from "../parts/facts.js";
import { field } from "../parts/field.js";
import { listed } from "../parts/live-list.js";
import { Empty } from "../parts/states-of-view.js";
import { actionsOn } from "../parts/toasts.js";
import { When } from "../parts/when.js";
import { DialogForm } from "../parts/dialog-form.js";
import { OnOff } from "../parts/switched.js";
import { column, heading } from "../parts/table.js";
import { opener, pageHead } from "../parts/page-head.js";

/** @import { Workspace } from "../api.js" */
/** @import { Webhook, WebhookWithSecret } from "../lib/routes.js" */

export const title = () => "Webhooks";

/** @param {{workspace: Workspace}} props */
export default function Webhooks({ workspace }) {
  const list = useRead(() => operations.webhooks(workspace.id), [workspace.id]);
  const [adding, setAdding] = useState(false);
  const [secret, setSecret] = useState(/** @type {WebhookWithSecret | null} */ (null));
  const [opened, setOpened] = useState(/** @type {Webhook | null} */ (null));
  const mayManage = workspace.role === "manager";
  const act = actionsOn(list.refresh);
  const rotate = async (/** @type {Webhook} */ one) => {
    const made = await act(
      "Could not rotate",
      () => operations.rotateSecret(workspace.id, one.id),
      "The secret is rotated",
      {
        title: "Rotate the secret?",
        text: "A new secret signs from now on; the old one signs too for a day.",
        action: "Rotate",
      },
    );
    if (made) setSecret(made);
  };
  const remove = (/** @type {Webhook} */ one) =>
    act(
      "Could not delete",
      () => operations.deleteWebhook(workspace.id, one.id),
      "The webhook is deleted",
      {
        title: "Delete this webhook?",
        text: `${one.url} receives nothing more; deliveries not yet sent are dropped.`,
        action: "Delete the webhook",
        danger: true,
      },
    );
  return html`<div class="page">
    ${pageHead("Webhooks", workspace.name, mayManage && opener("Add a webhook", () => setAdding(true)))}
    <section class="card" aria-label="Webhooks">
      ${listed(
        {
          of: list,
          label: "Webhooks",
          rows: list.value,
          key: (one) => one.id,
          cards: true,
          empty: html`<${Empty} title="No webhooks">
            Endpoints that receive job events, signed as Standard Webhooks specifies, are listed here.
          <//>`,
        },
        [
          heading(
            "Endpoint",
            "wrap",
            (one) => html`
              ${one.url}
              ${
                one.description &&
                html` <span class="muted small">${one.description}</span>
                `
              }
            `,
          ),
          column(
            "Events",
            (one) => html`
              ${one.event_types?.join(", ") ?? "all"}
              ${one.job_types && ` of ${one.job_types.join(", ")}`}
            `,
          ),
          column(
            "Last delivery",
            (one) => html`
              <${When} at=${one.last_delivered_at} />
              ${one.last_status && html` <span class="muted num">${one.last_status}</span>`}
            `,
          ),
          column("Failures", "num", (one) => number(one.failures)),
          column(
            "State",
            (one) =>
              html`<${OnOff}
                isOn=${one.enabled}
                word="Disabled"
                problem=${one.disabled_at ? (one.disabled_reason ?? "") : null} />`,
          ),
          column(
            "Actions",
            "num row-actions",
            (one) => html`
              ${quiet("Deliveries", () => setOpened(one))}
              ${
                mayManage &&
                html`
                  <${ActionButton}
                    className="quiet"
                    run=${() => act("Could not change", () => operations.changeWebhook(workspace.id, one.id, { body: { enabled: Boolean(one.disabled_at) || !one.enabled } }), "The webhook is changed")}>
                    ${one.enabled && !one.disabled_at ? "Switch off" : "Switch on"}
                  <//>
                  ${quiet("Rotate secret", () => rotate(one))}
                  ${quiet("Delete", () => remove(one))}
                `
              }
            `,
          ),
        ],
      )}
      ${
        adding &&
        html`<${Adder}
          workspaceId=${workspace.id}
          onClose=${(/** @type {WebhookWithSecret | null} */ made) => {
            setAdding(false);
            if (made) {
              setSecret(made);
              list.refresh();
            }
          }} />`
      }
      ${
        opened &&
        html`<${Deliveries}
          workspaceId=${workspace.id}
          webhook=${opened}
          onClose=${() => setOpened(null)} />`
      }
      ${
        secret &&
        html`<${Dialog} title="The signing secret" onClose=${() => setSecret(null)}>
          <p>It is shown this once. Verify <code>webhook-signature</code> with it.</p>
          <p><${CopyId} id=${secret.secret} whole what="secret" /></p>
          <div class="actions">
            <button type="button" class="primary" onClick=${() => setSecret(null)}>
              I have kept it
            </button>
          </div>
        <//>`
      }
    </section>
  </div>`;
}

/**
 * The latest deliveries of one webhook; each is a job with a page of its own.
 *
 * @param {{workspaceId: string, webhook: Webhook, onClose: () => void}} props
 */
function Deliveries({ workspaceId, webhook, onClose }) {
  const list = useRead(
    (signal) => operations.deliveries(workspaceId, webhook.id, { query: { limit: 50 }, signal }),
    [webhook.id],
  );
  return html`<${Dialog} title="Deliveries" onClose=${onClose} wide>
    <p class="muted wrap">${webhook.url}</p>
    ${listed(
      {
        of: list,
        label: "Deliveries",
        rows: list.value?.jobs,
        key: (job) => job.id,
        className: "deliveries",
        empty: html`<${Empty} title="Nothing delivered yet">
          A delivery is made when an event happens that this endpoint wants.
        <//>`,
      },
      [
        heading(
          "Made",
          (job) => html`<a href=${`/jobs/${job.id}`} onClick=${onClose}>
            <${When} at=${job.created_at} />
          </a>`,
        ),
        column("State", (job) => html`<${StateBadge} status=${job.status} />`),
        column("Attempts", "num", (job) => number(job.attempts)),
        column("Of", (job) => jobLink(job.payload?.job_id, onClose)),
        column("Error", "wrap", (job) => job.error_message ?? ""),
      ],
    )}
    <div class="actions"><button type="button" onClick=${onClose}>Close</button></div>
  <//>`;
}

/** @param {{workspaceId: string, onClose: (made: WebhookWithSecret | null) => void}} props */
function Adder({ workspaceId, onClose }) {
  const [url, setUrl] = useState("");
  const [events, setEvents] = useState("");
  const save = async () => {
    const types = events.split(/[\s,]+/).filter(Boolean);
    onClose(
      await operations.createWebhook(workspaceId, {
        body: { url: url.trim(), ...(types.length > 0 && { event_types: types }) },
      }),
    );
  };
  return html`<${DialogForm}
    title="Add a webhook"
    action="Add"
    run=${save}
    onClose=${() => onClose(null)}>
    ${field("Endpoint, https", url, setUrl, {
      inputmode: "url",
      required: true,
      placeholder: "https://example.com/hooks",
      autofocus: true,
    })}
    ${field("Events (empty for all)", events, setEvents, { placeholder: "job.completed, job.failed" })}
  <//>`;
}
