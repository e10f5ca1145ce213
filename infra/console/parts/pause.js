// Button that pauses and resumes the jobs of a workspace, or of one of its job types.

import { engine, rpc, session } from "../api.js";
import { promptText } from "../lib/prompt.js";
import { useStore } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { ActionButton } from "./dialog.js";
import { createAction, describeResume } from "./toasts.js";

/** If `type` is missing, the button pauses all jobs of the workspace. */
export function PauseButton({ workspace, type, isPaused, refresh }) {
  const act = createAction(refresh);
  const { user } = useStore(session);
  if (workspace.role !== "manager") return null;
  const name = type ?? workspace.name;
  const body = type && { job_type: type };
  const pause = async () => {
    const reason = await promptText({
      title: `Pause ${name}?`,
      text: `Until you resume, no job of ${name} starts in this workspace. Running jobs continue.`,
      field: "Reason, if any",
      action: `Pause the ${type ? "type" : "workspace"}`,
      danger: true,
    });
    if (reason === null) return;
    const call = () => engine.pause(workspace.id, { body: { ...body, reason: reason || null } });
    await act("Could not pause", call, `${name} is paused`);
  };
  const resume = async () => {
    const answer = await engine.resume(workspace.id, { body: { ...body } });
    const isOfOperator = answer.left?.some(({ kind }) => kind === "job_type");
    if (!type || !isOfOperator || !user.isOperator) return answer;
    return rpc("pause_jobs", { p_request: { kind: "job_type", name, paused: false } });
  };
  return html`<${ActionButton}
    className=${isPaused ? "primary" : "quiet"}
    run=${isPaused ? () => act("Could not resume", resume, describeResume(name)) : pause}>
    ${isPaused ? "Resume" : "Pause"}${!isPaused && !type && " jobs"}
  <//>`;
}
