// The people of a workspace: who belongs to it, who is invited, who changed that.

import { operations } from "../api.js";
import { useRead } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { Tag } from "./badge.js";
import { ActionButton, confirm, Dialog } from "./dialog.js";
import { Failed, Loading } from "./states-of-view.js";
import { actionsOn, notify } from "./toasts.js";
import { When } from "./when.js";

/** @import { Workspace } from "../api.js" */
/** @import { Member, Members as Found, SetMember } from "../lib/routes.js" */
/** @import { Problem } from "./states-of-view.js" */
/** @import { Act } from "./toasts.js" */
/** @typedef {Member["role"]} Role */
/** @typedef {{email: string | null, user_id?: string}} Person A member, or someone invited by their address. */

const ROLES = { manager: "Manager", member: "Member" };
/** @type {Record<string, string>} */
const ACTIONS = {
  workspace_created: "made the workspace",
  member_added: "added",
  member_removed: "removed",
  role_changed: "changed the role of",
  invited: "invited",
  invitation_accepted: "accepted an invitation",
  invitation_withdrawn: "withdrew the invitation of",
};

/** @param {{workspace: Workspace}} props */
export function Members({ workspace }) {
  const found = useRead((signal) => operations.members(workspace.id, signal), [workspace.id]);
  const [inviting, setInviting] = useState(false);
  if (found.error?.code === "members_elsewhere") return null; // the application's own tables say who belongs where
  const mayManage = workspace.role === "manager";
  const act = actionsOn(found.refresh);
  return html`<section class="card" aria-labelledby="h-members">
    <div class="bar"><h2 id="h-members">Members</h2><span class="spacer"></span>${mayManage && html`<button type="button" class="quiet" onClick=${() => setInviting(true)}>Invite a person</button>`}</div>
    ${
      found.value
        ? html`<${People} workspace=${workspace} found=${found.value} mayManage=${mayManage} act=${act} />`
        : found.error
          ? html`<${Failed} error=${found.error} retry=${found.refresh} what="The members could not be read" />`
          : html`<${Loading} what="Reading members" />`
    }
    ${
      inviting &&
      html`<${Invite} workspace=${workspace} onClose=${(/** @type {boolean} */ done) => {
        setInviting(false);
        if (done) found.refresh();
      }} />`
    }
  </section>`;
}

/** @param {{workspace: Workspace, found: Found, mayManage: boolean, act: Act}} props */
function People({ workspace, found, mayManage, act }) {
  const name = (/** @type {Person} */ one) => one.email ?? one.user_id;
  const change = (/** @type {Member} */ one, /** @type {Role} */ role) =>
    act(
      "Not changed",
      () => operations.setMember(workspace.id, /** @type {string} */ (one.email), role),
      `${name(one)} is now a ${role}`,
    );
  const remove = async (/** @type {Person} */ one, /** @type {boolean} */ isInvited) => {
    const title = isInvited
      ? `Withdraw the invitation of ${one.email}?`
      : `Remove ${name(one)} from ${workspace.name}?`;
    const text = isInvited
      ? "They can then no longer join with it."
      : "They see none of its jobs any more; jobs they enqueued stay.";
    if (
      await confirm({
        title,
        text,
        action: isInvited ? "Withdraw the invitation" : "Remove the member",
        danger: true,
      })
    )
      await act(
        "Not removed",
        () =>
          operations.removeMember(workspace.id, /** @type {string} */ (one.user_id ?? one.email)),
        `${name(one)} is removed`,
      );
  };
  return html`<div class="scroll-x" tabindex="0" role="group" aria-label="Members"><table class="table">
      <thead><tr><th scope="col">Person</th><th scope="col">Role</th><th scope="col">Since</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
      <tbody>${found.members.map(
        (one) => html`<tr key=${one.user_id}><th scope="row" class="wrap">${name(one)}</th>
          <td>${mayManage && one.email ? html`<select aria-label=${`Role of ${one.email}`} value=${one.role} onChange=${(/** @type {{target: {value: Role}}} */ event) => change(one, event.target.value)}>${Object.entries(ROLES).map(([value, label]) => html`<option value=${value} key=${value}>${label}</option>`)}</select>` : ROLES[one.role]}</td>
          <td><${When} at=${one.created_at} /></td>
          <td class="num">${mayManage && html`<button type="button" class="quiet" aria-label=${`Remove ${name(one)}`} onClick=${() => remove(one, false)}>Remove</button>`}</td></tr>`,
      )}
        ${found.invitations.map(
          (
            one,
          ) => html`<tr key=${one.email}><th scope="row" class="wrap">${one.email}</th><td>${ROLES[one.role]}</td>
          <td><${Tag} tone="waiting">Invited<//> <span class="muted small">ends <${When} at=${one.expires_at} /></span></td>
          <td class="num"><button type="button" class="quiet" aria-label=${`Withdraw the invitation of ${one.email}`} onClick=${() => remove(one, true)}>Withdraw</button></td></tr>`,
        )}</tbody></table></div>
    ${!mayManage && html`<p class="muted small">A manager may invite and remove people.</p>`}
    ${found.changes.length > 0 && html`<details class="more"><summary>Changes</summary><ul class="small">${found.changes.map((one) => html`<li key=${`${one.created_at} ${one.action} ${one.email}`}><${When} at=${one.created_at} /> ${one.actor ?? "the operator"} ${ACTIONS[one.action] ?? one.action} ${one.action === "invitation_accepted" ? "" : (one.email ?? one.user_id ?? "")}${one.role && one.action === "role_changed" ? ` to ${one.role}` : ""}</li>`)}</ul></details>`}`;
}

/** @param {{workspace: Workspace, onClose: (done: boolean) => void}} props */
function Invite({ workspace, onClose }) {
  const [email, setEmail] = useState("");
  const [role, setRole] = useState(/** @type {Role} */ ("member"));
  const [problem, setProblem] = useState(/** @type {Problem | null} */ (null));
  const [invited, setInvited] = useState(/** @type {SetMember | null} */ (null));
  const save = async () => {
    try {
      const made = await operations.setMember(workspace.id, email.trim(), role);
      if (made.state === "invited") return setInvited(made);
      notify(`${made.email} is a ${made.role} of ${workspace.name}`);
      onClose(true);
    } catch (error) {
      setProblem(error);
    }
  };
  if (invited) {
    return html`<${Dialog} title=${`${invited.email} is invited`} onClose=${() => onClose(true)}>
      <p>They join ${workspace.name} as soon as they sign in with this address and have confirmed it, within 30 days. No mail was sent: send them the address of this page, <code>${location.origin}</code>.</p>
      <p class="muted small">Without an account they need a link first. An operator sends it: <code>minutehand members add ${invited.email} --workspace ${workspace.id} --mail</code></p>
      <div class="actions"><button type="button" class="primary" autofocus onClick=${() => onClose(true)}>Done</button></div><//>`;
  }
  return html`<${Dialog} title=${`Invite a person to ${workspace.name}`} onClose=${() => onClose(false)}>
    <form class="stack" onSubmit=${(/** @type {Event} */ event) => {
      event.preventDefault();
      save();
    }}>
      <label class="field"><span>Mail address</span><input type="email" required maxlength="254" autofocus value=${email} onInput=${(/** @type {{target: HTMLInputElement}} */ event) => setEmail(event.target.value)} /></label>
      <label class="field"><span>Role</span><select value=${role} onChange=${(/** @type {{target: {value: Role}}} */ event) => setRole(event.target.value)}>
        <option value="member">Member: creates, reads and cancels jobs</option><option value="manager">Manager: also limits, pauses, schedules and people</option></select></label>
      ${problem && html`<p class="problem" role="alert">${problem.message}</p>`}
      <div class="actions"><button type="button" onClick=${() => onClose(false)}>Cancel</button><${ActionButton} className="primary" run=${save} disabled=${!email.includes("@")}>Invite<//></div>
    </form><//>`;
}
