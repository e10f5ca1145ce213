// What the person is invited to: workspaces that want to add them, each answered once.

import { invitations, refreshWorkspaces } from "../api.js";
import { useRead } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { ActionButton } from "./dialog.js";
import { actionsOn } from "./toasts.js";

/** @import { OwnInvitation } from "../lib/routes.js" */

/** The workspaces that want to add the person; nothing where there are none. */
export function Invitations() {
  const found = useRead((signal) => invitations.list({ signal }), []);
  const act = actionsOn(found.refresh);
  const accept = (/** @type {OwnInvitation} */ one) =>
    act(
      "Could not join",
      async () => {
        await invitations.accept(one.workspace_id);
        await refreshWorkspaces(one.workspace_id);
      },
      `You are a ${one.role} of ${one.name}`,
    );
  const decline = (/** @type {OwnInvitation} */ one) =>
    act(
      "Could not decline",
      () => invitations.decline(one.workspace_id),
      `You do not join ${one.name}`,
    );
  return (found.value?.invitations ?? []).map(
    (one) => html`<section
      class="notice stale"
      key=${one.workspace_id}
      aria-label=${`Invitation to ${one.name}`}>
      <span>
        <strong>${one.name}</strong> wants to add you as a ${one.role}
        ${one.invited_by ? `, invited by ${one.invited_by}` : ""}.
      </span>
      <span class="bar">
        <${ActionButton} className="primary" run=${() => accept(one)}>Accept<//>
        <${ActionButton} run=${() => decline(one)}>Decline<//>
      </span>
    </section>`,
  );
}
