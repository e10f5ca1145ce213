// The people of a workspace: who belongs to it, who is invited, who changed that.

import { useRead } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { operations } from "../operations.js";
import { Tag } from "../parts/badge.js";
import { quiet } from "../parts/button.js";
import { Dialog } from "../parts/dialog.js";
import { DialogForm } from "../parts/dialog-form.js";
import { choice, field, toValue } from "../parts/field.js";
import { column, heading, table } from "../parts/table.js";
import { actionsOn, notify } from "../parts/toasts.js";
import { When } from "../parts/when.js";
import { Unread } from "../parts/unread.js";
import { opener, pageHead } from "../parts/page-head.js";

/** @import { Workspace } from "../api.js" */
/** @import { Member, Members as Found, SetMember } from "../lib/routes.js" */
/** @import { Act } from "../parts/toasts.js" */
/** @typedef {Member["role"]} Role */
/** @typedef {{email: string | null, user_id?: string, role: Role, created_at?: string, expires_at?: string}} Person A
 *   member, or someone invited by their address. */

const ROLES = { manager: "Manager", member: "Member" };
/** @type {Record<string, string>} */
const ACTIONS = {
  workspace_created: "made the workspace",
  member_added: "added",
  member_removed: "removed",
  role_changed: "changed the role of",
  invited: "invited",
  invitation_accepted: "accepted an invitation",
  invitation_declined: "declined an invitation",
  invitation_withdrawn: "withdrew the invitation of",
};

export const title = () => "Members";

/** @param {{workspace: Workspace}} props */
export default function Members({ workspace }) {
  const found = useRead((signal) => operations.members(workspace.id, { signal }), [workspace.id]);
  const [inviting, setInviting] = useState(false);
  // the application's own tables say who belongs where
  const isElsewhere = found.error?.code === "members_elsewhere";
  const mayManage = workspace.role === "manager" && !isElsewhere;
  const act = actionsOn(found.refresh);
  return html`<div class="page">
    ${pageHead("Members", workspace.name, mayManage && opener("Invite a person", () => setInviting(true)))}
    <section class="card" aria-label="Members">
      ${
        found.value
          ? html`<${People}
            workspace=${workspace}
            found=${found.value}
            mayManage=${mayManage}
            act=${act} />`
          : isElsewhere
            ? html`<p class="muted">The application itself says who belongs to this workspace.</p>`
            : html`<${Unread} of=${found} what="the members" />`
      }
      ${
        inviting &&
        html`<${Invite}
          workspace=${workspace}
          onClose=${(/** @type {boolean} */ done) => {
            setInviting(false);
            if (done) found.refresh();
          }} />`
      }
    </section>
  </div>`;
}

/** @param {{workspace: Workspace, found: Found, mayManage: boolean, act: Act}} props */
function People({ workspace, found, mayManage, act }) {
  const name = (/** @type {Person} */ one) => one.email ?? one.user_id;
  const change = (/** @type {Person} */ one, /** @type {Role} */ role) =>
    act(
      "Could not change",
      () =>
        operations.setMember(workspace.id, /** @type {string} */ (one.email), { body: { role } }),
      `${name(one)} is now a ${role}`,
    );
  const remove = (/** @type {Person} */ one) =>
    act(
      "Could not remove",
      () => operations.removeMember(workspace.id, /** @type {string} */ (one.user_id ?? one.email)),
      `${name(one)} is removed`,
      one.user_id
        ? {
            title: `Remove ${name(one)} from ${workspace.name}?`,
            text: "They see none of its jobs any more; jobs they enqueued stay.",
            action: "Remove the member",
            danger: true,
          }
        : {
            title: `Withdraw the invitation of ${one.email}?`,
            text: "They can then no longer join with it.",
            action: "Withdraw the invitation",
            danger: true,
          },
    );
  return html`
    ${table(
      {
        label: "Members",
        rows: /** @type {Person[]} */ ([...found.members, ...found.invitations]),
        key: (one) => one.user_id ?? String(one.email),
        cards: true,
      },
      [
        heading("Person", "wrap", name),
        column("Role", (one) =>
          mayManage && one.email && one.user_id
            ? html`<select
              aria-label=${`Role of ${one.email}`}
              value=${one.role}
              onChange=${toValue((role) => change(one, role))}>
              ${Object.entries(ROLES).map(
                ([value, label]) => html`<option value=${value} key=${value}>
                  ${label}
                </option>`,
              )}
            </select>`
            : ROLES[one.role],
        ),
        column("Since", (one) =>
          one.user_id
            ? html`<${When} at=${one.created_at} />`
            : html`
              <${Tag} tone="waiting">Invited<//> <span class="muted small">
                ends <${When} at=${one.expires_at} />
              </span>
            `,
        ),
        column("Actions", "num row-actions", (one) => {
          const word = one.user_id ? "Remove" : "Withdraw";
          const what = one.user_id
            ? `Remove ${name(one)}`
            : `Withdraw the invitation of ${one.email}`;
          return mayManage && quiet(word, () => remove(one), { "aria-label": what });
        }),
      ],
    )}
    ${!mayManage && html`<p class="muted small">A manager may invite and remove people.</p>`}
    ${
      found.changes.length > 0 &&
      html`<details class="more">
        <summary>Changes</summary>
        <ul class="small">
          ${found.changes.map(
            (one) => html`<li key=${`${one.created_at} ${one.action} ${one.email}`}>
              <${When} at=${one.created_at} /> ${one.actor ?? "the operator"} ${ACTIONS[one.action] ?? one.action} ${/^invitation_(accepted|declined)$/.test(one.action) ? "" : (one.email ?? one.user_id ?? "")}
              ${one.role && one.action === "role_changed" ? ` to ${one.role}` : ""}
            </li>`,
          )}
        </ul>
      </details>`
    }
  `;
}

/** @param {{workspace: Workspace, onClose: (done: boolean) => void}} props */
function Invite({ workspace, onClose }) {
  const [email, setEmail] = useState("");
  const [role, setRole] = useState(/** @type {Role} */ ("member"));
  const [invited, setInvited] = useState(/** @type {SetMember | null} */ (null));
  const save = async () => {
    const made = await operations.setMember(workspace.id, email.trim(), { body: { role } });
    if (made.state === "invited") return setInvited(made);
    notify(`${made.email} is a ${made.role} of ${workspace.name}`);
    onClose(true);
  };
  if (invited) {
    return html`<${Dialog} title=${`${invited.email} is invited`} onClose=${() => onClose(true)}>
      <p>
        They join ${workspace.name} when they sign in with this address, confirmed, and accept, within 30 days. No mail was sent: send them the address of this page, <code>
          ${location.origin}
        </code>.
      </p>
      <p class="muted small">
        An operator has a link mailed, with which a person without an account makes one: <code>
          minutehand members add ${invited.email} --workspace ${workspace.id} --mail
        </code>
      </p>
      <div class="actions">
        <button type="button" class="primary" autofocus onClick=${() => onClose(true)}>Done</button>
      </div>
    <//>`;
  }
  return html`<${DialogForm}
    title=${`Invite a person to ${workspace.name}`}
    action="Invite"
    run=${save}
    onClose=${() => onClose(false)}>
    ${field("Mail address", email, setEmail, { type: "email", required: true, maxlength: 254, autofocus: true })}
    ${choice("Role", role, setRole, [
      ["member", "Member: creates, reads and cancels jobs"],
      ["manager", "Manager: also limits, pauses, schedules and people"],
    ])}
  <//>`;
}
