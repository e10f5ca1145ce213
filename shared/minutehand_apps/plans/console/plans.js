// Page with the plans of a workspace, newest first, and a form for a new plan.

import {
  ActionButton,
  area,
  callRoute,
  choice,
  column,
  DialogForm,
  Empty,
  heading,
  html,
  liveList,
  navigate,
  pageHead,
  stateOf,
  Tag,
  useLatest,
  useMemo,
  useState,
  When,
} from "../../app.js";

export const title = () => "Plans";

const SPEEDS = [
  ["fast_but_skip_details", "Fast, without details"],
  ["balanced_speed_and_detail", "Balanced"],
  ["all_details_but_slow", "All details"],
];

export const isLive = (status) => ["pending", "running", "cancelling"].includes(status);

/** Return the word and the colour (tone) of a plan's badge. */
export function toneOf({ status, is_sample: isSample }) {
  if (isSample && status === "completed") return { word: "Sample" };
  return status === "cancelling"
    ? { tone: "processing", word: "Cancelling" }
    : stateOf(status === "running" ? "processing" : status);
}

export default function Plans({ workspace }) {
  const [isAsking, setIsAsking] = useState(false);
  const found = useLatest("plan_states", workspace.id, "created_at", (one) => isLive(one.status));
  return html`<div class="page">
    ${pageHead(
      "Plans",
      null,
      html`<${ActionButton} className="primary" run=${async () => setIsAsking(true)}>
        New plan
      <//>`,
    )}
    ${
      isAsking &&
      html`<${NewPlan} workspaceId=${workspace.id} onClose=${() => setIsAsking(false)} />`
    }
    ${liveList(
      {
        of: found,
        label: "Plans",
        rows: found.value,
        key: (one) => one.plan_id,
        empty: html`<${Empty} title="No plans yet">
          <p>Describe a project. Its plan is written in stages, and the report is available at any time.</p>
          <${ActionButton} run=${async () => setIsAsking(true)}>Create the first<//>
        <//>`,
      },
      [
        heading(
          "Plan",
          "wrap",
          (one) => html`<a href=${`/plans/${one.plan_id}`}>${one.prompt.slice(0, 160)}</a>`,
        ),
        column("State", "state bare", (one) => {
          const { tone, word } = toneOf(one);
          return html`<${Tag} tone=${tone}>${word}<//>`;
        }),
        column("Created", "bare", (one) => html`<${When} at=${one.created_at} />`),
      ],
    )}
  </div>`;
}

function NewPlan({ workspaceId, onClose }) {
  const [prompt, setPrompt] = useState("");
  const [speed, setSpeed] = useState("balanced_speed_and_detail");
  // Each form has one idempotency key, so that a double click creates only one plan.
  const key = useMemo(() => crypto.randomUUID(), [prompt, speed]);
  const create = async () => {
    const plan = await callRoute("POST /api/plans", {
      headers: { "Idempotency-Key": key },
      body: { workspace_id: workspaceId, prompt: prompt.trim(), speed_vs_detail: speed },
    });
    navigate(`/plans/${plan.plan_id}`);
  };
  return html`<${DialogForm}
    title="New plan"
    action="Create plan"
    doing="Creating…"
    run=${create}
    onClose=${onClose}
    wide>
    ${area("Prompt", prompt, setPrompt, {
      rows: 6,
      required: true,
      maxlength: 8000,
      placeholder: "Describe a project",
    })}
    ${choice("Detail", speed, setSpeed, SPEEDS)}
  <//>`;
}
