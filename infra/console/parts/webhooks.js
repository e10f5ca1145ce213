// Webhooks of a workspace: their events, deliveries and secrets, which are shown once.

import { operations } from "../api.js";
import { number, shortId } from "../lib/format.js";
import { useRead } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { StateBadge, Tag } from "./badge.js";
import { CopyId } from "./copy.js";
import { ActionButton, confirm, Dialog } from "./dialog.js";
import { Empty, Failed, Loading } from "./states-of-view.js";
import { actionsOn } from "./toasts.js";
import { When } from "./when.js";

/** @import { Workspace } from "../api.js" */
/** @import { Webhook, WebhookWithSecret } from "../lib/routes.js" */

/** @param {{workspace: Workspace}} props */
export function Webhooks({ workspace }) {
  const list = useRead(() => operations.webhooks(workspace.id), [workspace.id]);
  const [adding, setAdding] = useState(false);
  const [secret, setSecret] = useState(/** @type {WebhookWithSecret | null} */ (null));
  const [opened, setOpened] = useState(/** @type {Webhook | null} */ (null));
  const mayManage = workspace.role === "manager";
  const act = actionsOn(list.refresh);
  const rotate = async (/** @type {Webhook} */ one) => {
    if (
      await confirm({
        title: "Rotate the secret?",
        text: "A new secret signs from now on; the old one signs too for a day.",
        action: "Rotate",
      })
    ) {
      const made = await act(
        "Not rotated",
        () => operations.rotateSecret(workspace.id, one.id),
        "The secret is rotated",
      );
      if (made) setSecret(made);
    }
  };
  const remove = async (/** @type {Webhook} */ one) => {
    if (
      await confirm({
        title: "Delete this webhook?",
        text: `${one.url} receives nothing more; deliveries not yet sent are dropped.`,
        action: "Delete the webhook",
        danger: true,
      })
    )
      await act(
        "Not deleted",
        () => operations.deleteWebhook(workspace.id, one.id),
        "The webhook is deleted",
      );
  };
  return html`<section class="card" aria-labelledby="h-webhooks">
    <div class="bar"><h2 id="h-webhooks">Webhooks</h2><span class="spacer"></span>${mayManage && html`<button type="button" class="quiet" onClick=${() => setAdding(true)}>Add a webhook</button>`}</div>
    ${
      !list.value
        ? list.error
          ? html`<${Failed} error=${list.error} retry=${list.refresh} what="The webhooks could not be read" />`
          : html`<${Loading} what="Reading webhooks" />`
        : list.value.length === 0
          ? html`<${Empty} title="No webhooks">Endpoints that receive job events, signed after Standard Webhooks, are listed here.<//>`
          : html`<div class="scroll-x" tabindex="0" role="group" aria-label="Webhooks"><table class="table"><thead><tr><th scope="col">Endpoint</th><th scope="col">Events</th><th scope="col">Last delivery</th><th scope="col" class="num">Failures</th><th scope="col">State</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
        <tbody>${list.value.map(
          (
            one,
          ) => html`<tr key=${one.id}><th scope="row" class="wrap">${one.url}${one.description && html` <span class="muted small">${one.description}</span>`}</th>
          <td>${one.event_types?.join(", ") ?? "all"}${one.job_types && ` of ${one.job_types.join(", ")}`}</td><td><${When} at=${one.last_delivered_at} />${one.last_status && html` <span class="muted num">${one.last_status}</span>`}</td><td class="num">${number(one.failures)}</td>
          <td>${one.disabled_at ? html`<${Tag} tone="failed">Disabled<//> <span class="wrap">${one.disabled_reason}</span>` : one.enabled ? html`<${Tag} tone="completed">On<//>` : html`<${Tag} tone="pending">Off<//>`}</td>
          <td class="num row-actions"><button type="button" class="quiet" onClick=${() => setOpened(one)}>Deliveries</button>
            ${
              mayManage &&
              html`<${ActionButton} className="quiet" run=${() => act("Not changed", () => operations.changeWebhook(workspace.id, one.id, { enabled: Boolean(one.disabled_at) || !one.enabled }), "The webhook is changed")}>${one.enabled && !one.disabled_at ? "Switch off" : "Switch on"}<//>
            <button type="button" class="quiet" onClick=${() => rotate(one)}>Rotate secret</button><button type="button" class="quiet" onClick=${() => remove(one)}>Delete</button>`
            }</td></tr>`,
        )}</tbody></table></div>`
    }
    ${
      adding &&
      html`<${Adder} workspaceId=${workspace.id} onClose=${(
        /** @type {WebhookWithSecret | null} */ made,
      ) => {
        setAdding(false);
        if (made) {
          setSecret(made);
          list.refresh();
        }
      }} />`
    }
    ${opened && html`<${Deliveries} workspaceId=${workspace.id} webhook=${opened} onClose=${() => setOpened(null)} />`}
    ${
      secret &&
      html`<${Dialog} title="The signing secret" onClose=${() => setSecret(null)}><p>It is shown this once. Verify <code>webhook-signature</code> with it.</p><p><${CopyId} id=${secret.secret} whole what="secret" /></p>
      <div class="actions"><button type="button" class="primary" onClick=${() => setSecret(null)}>I have kept it</button></div><//>`
    }
  </section>`;
}

/**
 * The latest deliveries of one webhook; each is a job with a page of its own.
 *
 * @param {{workspaceId: string, webhook: Webhook, onClose: () => void}} props
 */
function Deliveries({ workspaceId, webhook, onClose }) {
  const list = useRead(
    (signal) => operations.deliveries(workspaceId, webhook.id, signal),
    [webhook.id],
  );
  return html`<${Dialog} title="Deliveries" onClose=${onClose} wide>
    <p class="muted wrap">${webhook.url}</p>
    ${
      !list.value
        ? list.error
          ? html`<${Failed} error=${list.error} retry=${list.refresh} what="The deliveries could not be read" />`
          : html`<${Loading} what="Reading deliveries" />`
        : list.value.length === 0
          ? html`<${Empty} title="Nothing delivered yet">A delivery is made when an event happens that this endpoint wants.<//>`
          : html`<div class="scroll-x deliveries" tabindex="0" role="group" aria-label="Deliveries"><table class="table"><thead><tr><th scope="col">Made</th><th scope="col">State</th><th scope="col" class="num">Attempts</th><th scope="col">Of</th><th scope="col">Error</th></tr></thead>
        <tbody>${list.value.map(
          (
            job,
          ) => html`<tr key=${job.id}><th scope="row"><a href=${`/jobs/${job.id}`} onClick=${onClose}><${When} at=${job.created_at} /></a></th><td><${StateBadge} status=${job.status} /></td><td class="num">${number(job.attempts)}</td>
          <td>${job.payload?.job_id ? html`<a class="mono" href=${`/jobs/${job.payload.job_id}`} onClick=${onClose}>${shortId(job.payload.job_id)}</a>` : "–"}</td><td class="wrap">${job.error_message ?? ""}</td></tr>`,
        )}</tbody></table></div>`
    }
    <div class="actions"><button type="button" onClick=${onClose}>Close</button></div>
  <//>`;
}

/** @param {{workspaceId: string, onClose: (made: WebhookWithSecret | null) => void}} props */
function Adder({ workspaceId, onClose }) {
  const [url, setUrl] = useState("");
  const [events, setEvents] = useState("");
  const [problem, setProblem] = useState(/** @type {string | null} */ (null));
  const [busy, setBusy] = useState(false);
  const save = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setBusy(true);
    const types = events.split(/[\s,]+/).filter(Boolean);
    try {
      onClose(
        await operations.createWebhook(workspaceId, {
          url: url.trim(),
          ...(types.length > 0 && { event_types: types }),
        }),
      );
    } catch (error) {
      setProblem(error.message);
      setBusy(false);
    }
  };
  return html`<${Dialog} title="Add a webhook" onClose=${() => onClose(null)}>
    <form class="stack" onSubmit=${save}>
      <label class="field"><span>Endpoint, https</span><input type="text" inputmode="url" required placeholder="https://example.com/hooks" value=${url} onInput=${(/** @type {{target: HTMLInputElement}} */ event) => setUrl(event.target.value)} autofocus /></label>
      <label class="field"><span>Events (empty for all)</span><input type="text" placeholder="job.completed, job.failed" value=${events} onInput=${(/** @type {{target: HTMLInputElement}} */ event) => setEvents(event.target.value)} /></label>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <div class="actions"><button type="button" onClick=${() => onClose(null)}>Close</button><button type="submit" class="primary" disabled=${busy}>Add</button></div>
    </form>
  <//>`;
}
