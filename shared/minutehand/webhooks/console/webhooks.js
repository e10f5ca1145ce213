// Page of a workspace's webhooks, with their events, deliveries and secrets. A secret is shown only
// once.

import {
  breakable,
  column,
  CopyId,
  Dialog,
  DialogForm,
  Empty,
  field,
  heading,
  html,
  notify,
  OnOff,
  pluralize,
  ResourceView,
  route,
  rpc,
  useState,
  When,
  WORKSPACE_PATH,
} from "../../app.js";

export const title = () => "Webhooks";

const add = route(`POST ${WORKSPACE_PATH}/webhooks`);
const change = route(`PATCH ${WORKSPACE_PATH}/webhooks/{webhook_id}`);
const remove = route(`DELETE ${WORKSPACE_PATH}/webhooks/{webhook_id}`);
const rotate = route(`POST ${WORKSPACE_PATH}/webhooks/{webhook_id}/rotate-secret`);
const sendTest = route(`POST ${WORKSPACE_PATH}/webhooks/{webhook_id}/test`);

const isBroken = (one) => Boolean(one.disabled_reason || one.problem) || one.failures > 0;

/** Read the webhooks. Disabled and failing webhooks come first. */
async function read(workspaceId, signal) {
  const { webhooks } = await rpc("list_webhooks", { p_workspace_id: workspaceId }, signal);
  return webhooks.sort((a, b) => isBroken(b) - isBroken(a));
}

/**
 * Return why a webhook was disabled. Return "" if the webhook is enabled but fails, and null if it
 * has no problem.
 */
const problemOf = ({ disabled_reason: why, failures, problem }) =>
  why ? `disabled: ${why}` : failures > 0 ? "" : problem;

/** Return a link to the list of the jobs that deliver the events of a webhook. */
function deliveriesOf({ id }) {
  const payload = encodeURIComponent(JSON.stringify({ webhook_id: id }));
  return `/jobs?job_type=webhook_delivery&payload=${payload}`;
}

export default function Webhooks({ workspace }) {
  const [secret, setSecret] = useState(null);
  const mayManage = workspace.role === "manager";
  const test = async (one) => {
    const { job_id: id } = await sendTest(workspace.id, one.id);
    notify("The latest event is being sent", { href: `/jobs/${id}`, label: "The delivery" });
  };
  const steer = (one, act) => [
    ["Send a test", () => act("Could not send a test", () => test(one))],
    [
      one.enabled ? "Switch off" : "Switch on",
      () => {
        const enabled = !one.enabled;
        return act("Could not change", () => change(workspace.id, one.id, { body: { enabled } }));
      },
    ],
    [
      "Rotate secret",
      async () => {
        const made = await act("Could not rotate", () => rotate(workspace.id, one.id), undefined, {
          title: "Rotate the secret?",
          text: "A new secret signs from now on; the old one signs too for a day.",
          action: "Rotate",
        });
        if (made) setSecret(made.secret);
      },
    ],
    [
      "Delete",
      () =>
        act("Could not delete", () => remove(workspace.id, one.id), "Deleted", {
          title: "Delete this webhook?",
          text: `${one.url} receives nothing more; deliveries not yet sent are dropped.`,
          action: "Delete the webhook",
          danger: true,
        }),
    ],
  ];
  return html`<${ResourceView}
    name="Webhooks"
    read=${(signal) => read(workspace.id, signal)}
    inputs=${[workspace.id]}
    rowKey=${(one) => one.id}
    nameOf=${(one) => one.url}
    columns=${[
      heading(
        "Endpoint",
        "wrap",
        (one) => html`<p class="strong">${breakable(one.url)}</p>
          <p class="muted small">${one.event_types?.join(", ") ?? "all events"}</p>`,
      ),
      column(
        "Last result",
        "wrap wide",
        (one) => html`
          ${one.last_status && html`<span class="num strong">${one.last_status}</span> `}
          ${one.last_answer ?? "none yet"}
          ${
            one.last_delivered_at &&
            html` <span class="muted small">
              delivered <${When} at=${one.last_delivered_at} />
            </span>`
          }
          <p>
            <a href=${deliveriesOf(one)}>All deliveries<span class="hidden"> to ${one.url}</span></a>
          </p>
        `,
      ),
      column(
        "State",
        (one) =>
          html`<${OnOff}
            isOn=${one.enabled}
            problem=${problemOf(one)} />
            ${
              one.failures > 0 &&
              html`<p class="problem">
                ${pluralize(one.failures, "failure")} in a row, the first <${When}
                  at=${one.failing_since} />
              </p>`
            }
            ${
              one.enabled &&
              one.off_at &&
              html` <span class="muted small">switched off <${When} at=${one.off_at} />,
                if none succeeds</span>`
            }`,
      ),
    ]}
    actions=${mayManage && ((one, { act }) => steer(one, act))}
    add=${
      mayManage && [
        "Add a webhook",
        ({ onClose }) =>
          html`<${Adder} workspaceId=${workspace.id} onAdded=${setSecret} onClose=${onClose} />`,
      ]
    }
    empty=${html`<${Empty} title="No webhooks">
      <p>A webhook sends job events to your URL. Each request is signed (Standard Webhooks).</p>
      <p>Verify a request in Python:</p>
      <p><code>Webhook(secret).verify(body, headers)</code></p>
    <//>`}>
    ${
      secret &&
      html`<${Dialog} title="The signing secret" onClose=${() => setSecret(null)}>
        <p>It is shown this once. Verify <code>webhook-signature</code> with it.</p>
        <p><${CopyId} id=${secret} whole what="secret" /></p>
        <div class="actions">
          <button type="button" class="primary" onClick=${() => setSecret(null)}>
            I have kept it
          </button>
        </div>
      <//>`
    }
  <//>`;
}

function Adder({ workspaceId, onAdded, onClose }) {
  const [url, setUrl] = useState("");
  const [events, setEvents] = useState("");
  const save = async () => {
    const types = events.split(/[\s,]+/).filter(Boolean);
    const body = { url: url.trim(), ...(types.length > 0 && { event_types: types }) };
    const made = await add(workspaceId, { body });
    onClose();
    onAdded(made.secret);
  };
  return html`<${DialogForm} title="Add a webhook" action="Add" run=${save} onClose=${onClose}>
    ${field("Endpoint, https", url, setUrl, {
      inputmode: "url",
      required: true,
      placeholder: "https://example.com/hooks",
      autofocus: true,
    })}
    ${field("Events (empty for all)", events, setEvents, {
      placeholder: "job.completed, job.failed",
    })}
  <//>`;
}
