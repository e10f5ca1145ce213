// Page of one plan, with the report as far as it is written, the stages, and the log.

import {
  ActionButton,
  area,
  callRoute,
  createAction,
  createHooks,
  DialogForm,
  download,
  hooks,
  html,
  Icon,
  JobProgress,
  loadStyles,
  navigate,
  objectHead,
  placeholderPage,
  ShareButton,
  stale,
  supabase,
  Tag,
  useFetch,
  useState,
  useTopicRefresh,
  When,
} from "../../app.js";
import { Gantt } from "./gantt.js";
import { isLive, toneOf } from "./plans.js";

loadStyles("/apps/plans/plans.css");

export const title = () => "Plan";

const { useJob } = createHooks(hooks, supabase);

const JSON_ONLY = { Accept: "application/json" };
const FORMATS = [
  { name: "Download HTML", type: "text/html", file: "plan.html" },
  { name: "Download Markdown", type: "text/markdown", file: "plan.md" },
];

/** Read a plan and the plan's report. */
async function readPlan(id, signal) {
  const params = { plan_id: id };
  const [plan, report] = await Promise.all([
    callRoute("GET /api/plans/{plan_id}", { params, signal }),
    callRoute("GET /api/plans/{plan_id}/report", { params, headers: JSON_ONLY, signal }),
  ]);
  return { ...plan, report };
}

export default function PlanPage({ id }) {
  const found = useFetch((signal) => readPlan(id, signal), [id]);
  const plan = found.value;
  const live = isLive(plan?.status);
  const session = plan?.session_id; // null for a member's plan, whose job is followed
  useTopicRefresh(found, [live && (session ? `session:${session}` : `job:${plan.job_id}`)]);
  const { output } = useJob(live ? plan.job_id : null, { session_id: session, silence: Infinity });
  const unread = placeholderPage("Plan", found, "plan");
  if (unread) return unread;
  const act = createAction(found.refresh);
  const params = { plan_id: id };
  const removePlan = async () => {
    await callRoute("DELETE /api/plans/{plan_id}", { params });
    navigate("/plans");
  };
  const remove = () =>
    act("Could not delete", removePlan, undefined, {
      title: "Delete this plan?",
      text: "Its report is deleted too. This cannot be undone.",
      action: "Delete plan",
      danger: true,
    });
  const post = (problem, what) =>
    act(problem, () => callRoute(`POST /api/plans/{plan_id}/${what}`, { params }));
  const save = (type, file) =>
    act("Could not read the report", async () => {
      const headers = { Accept: type };
      const route = "GET /api/plans/{plan_id}/report";
      download(file, await callRoute(route, { params, headers, as: "blob" }));
    });
  const redo = (stage) =>
    act("Could not rewrite the chapter", () =>
      callRoute("POST /api/plans/{plan_id}/chapters/{stage}/retry", {
        params: { ...params, stage },
      }),
    );
  const edit = (stage, text) =>
    callRoute("PUT /api/plans/{plan_id}/chapters/{stage}", {
      params: { ...params, stage },
      body: { text },
    }).then(found.refresh);
  const editTask = (body) =>
    callRoute("PUT /api/plans/{plan_id}/tasks", { params, body }).then(found.refresh);
  const share = (shared) =>
    callRoute("PUT /api/plans/{plan_id}/share", { params, body: { shared } });
  const { tone, word } = toneOf(plan);
  return html`<article class="page">
    ${objectHead(
      html`<a href="/plans">Plans</a> / created <${When} at=${plan.created_at} />`,
      plan.prompt.slice(0, 160),
      html`<${Tag} tone=${tone}>${word}<//>`,
      html`<div class="actions">
        ${
          ["failed", "cancelled"].includes(plan.status) &&
          html`<${ActionButton} className="primary" run=${() => post("Could not retry", "retry")}>
            Retry
          <//>`
        }
        <${ShareButton}
          what="this report"
          address=${plan.share_id && `/api/plans/shared/${plan.share_id}`}
          share=${share}
          refresh=${found.refresh} />
        ${FORMATS.map(
          ({ name, type, file }) => html`<${ActionButton}
            key=${name}
            run=${() => save(type, file)}>
            <${Icon} name="download" /> ${name}
          <//>`,
        )}
        ${
          live &&
          html`<${ActionButton}
            disabled=${plan.status === "cancelling"}
            run=${() => post("Could not cancel", "cancel")}>
            ${plan.status === "cancelling" ? "Cancelling…" : "Cancel"}
          <//>`
        }
        <${ActionButton} className="danger" run=${remove}>Delete<//>
      </div>`,
    )}
    ${stale(found)}
    ${
      live &&
      html`<${JobProgress}
        job=${{ status: "processing", progress: { percentage: plan.percentage, message: plan.waits_for } }} />`
    }
    ${plan.error && html`<p class="problem" role="alert">${plan.error}</p>`}
    ${plan.report.notice && html`<p class="muted">${plan.report.notice}</p>`}
    <div class="plan">
      <${Outline} of=${plan.report.outline} isSample=${plan.is_sample} />
      <${ReportSection}
        report=${plan.report}
        output=${output}
        redo=${live ? null : redo}
        edit=${edit}
        editTask=${editTask} />
    </div>
    <${Log} plan=${plan} />
  </article>`;
}

/**
 * Shows the log of the plan. The log is read when a person opens it, and after each change of the
 * plan.
 */
function Log({ plan }) {
  const [isOpen, setIsOpen] = useState(false);
  const read = async (signal) => {
    const options = { params: { plan_id: plan.plan_id }, headers: JSON_ONLY, signal };
    return isOpen ? (await callRoute("GET /api/plans/{plan_id}/stream", options)).events : [];
  };
  const found = useFetch(read, [isOpen, plan.percentage, plan.status]);
  return html`<details class="card" onToggle=${(event) => setIsOpen(event.target.open)}>
    <summary>Log</summary>
    <ol aria-label="Log">
      ${(found.value ?? [])
        .filter((one) => one.type !== "stage_progress" && one.data.message)
        .map(
          (one) => html`<li key=${one.seq} class="wrap">
            <${When} at=${one.at} /> ${one.data.message}
          </li>`,
        )}
    </ol>
  </details>`;
}

const MARKS = {
  completed: "check",
  failed: "cross",
  running: "dot",
  waiting: "ring",
  missing: "slash",
};
const WORDS = {
  completed: "Written",
  failed: "Failed",
  running: "Being written…",
  waiting: "Waiting",
  missing: "Not written",
};
const TONES = { completed: "completed", failed: "failed", running: "processing" };

/** List of all chapters, with the state of each chapter. */
const Outline = ({ of, isSample }) =>
  html`<nav class="outline" aria-label="Chapters">
    <ol>
      ${of.map(
        ({ stage, title: name, status }) => html`<li
          key=${stage}
          data-tone=${(!isSample && TONES[status]) || "pending"}
          data-status=${status === "running" ? "processing" : status}>
          <${Icon} name=${MARKS[status]} />
          <a href=${`#${stage}`}>${name}</a>
          <span class="hidden">${WORDS[status]}</span>
        </li>`,
      )}
    </ol>
  </nav>`;

function ReportSection({ report, output, redo, edit, editTask }) {
  const blocks = new Map(report.chapters.map((chapter) => [chapter.stage, chapter.blocks]));
  const [tasks] = blocks.get("work_breakdown") ?? [];
  const [order] = blocks.get("dependencies") ?? [];
  const gantt =
    tasks && order?.[0].length === 4
      ? html`<${Gantt} tasks=${tasks.slice(1)} order=${order.slice(1)} edit=${editTask} />`
      : null;
  return html`<section class="card stack report" aria-labelledby="h-report" dir="auto">
    <h2 id="h-report">${report.title}</h2>
    ${report.outline.map(
      (one) => html`<${Chapter}
        key=${one.stage}
        of=${one}
        blocks=${blocks.get(one.stage)}
        text=${output[one.stage]}
        redo=${redo && (() => redo(one.stage))}
        edit=${(text) => edit(one.stage, text)}
        chart=${one.stage === "dependencies" ? gantt : null} />`,
    )}
  </section>`;
}

/** Return the text of a chapter for editing, or null if the chapter contains a table. */
function editableText(blocks) {
  if (blocks?.length !== 1) return null;
  if (typeof blocks[0] === "string") return blocks[0];
  return blocks[0].every((line) => typeof line === "string") ? blocks[0].join("\n") : null;
}

/** Stages whose chapter is edited in the schedule. */
const SCHEDULED = ["work_breakdown", "dependencies"];

function ChapterForm({ name, words, edit, onClose }) {
  const [text, setText] = useState(words);
  const run = () => edit(text).then(() => onClose());
  return html`<${DialogForm} title=${name} action="Save" run=${run} onClose=${onClose} wide>
    ${area("Text", text, setText, { rows: 12, maxlength: 6000, required: true, dir: "auto" })}
  <//>`;
}

function Chapter({ of, blocks, text, redo, edit, chart }) {
  const { stage, title: name, status, reason } = of;
  const [isEdited, setIsEdited] = useState(false);
  const words = editableText(blocks);
  const close = () => setIsEdited(false);
  return html`<section id=${stage} class="chapter" data-chapter=${status}>
    <div class="bar">
      <h3>${name}</h3>
      <span class="spacer"></span>
      ${
        words !== null &&
        html`<${ActionButton} className="quiet" run=${async () => setIsEdited(true)}
          aria-label=${`Edit: ${name}`}>Edit<//>`
      }
      ${
        redo &&
        SCHEDULED.includes(stage) &&
        html`<span class="hint">Choose a task in the schedule to edit it</span>`
      }
      ${
        redo &&
        html`<${ActionButton} className="quiet" run=${redo}
          aria-label=${`Rewrite: ${name}`}>Rewrite<//>`
      }
    </div>
    ${
      isEdited && html`<${ChapterForm} name=${name} words=${words} edit=${edit} onClose=${close} />`
    }
    ${chart}
    ${
      blocks
        ? blocks.map(blockOf)
        : text && status === "running"
          ? html`<p class="writing">${text}</p>`
          : reason
            ? html`<p class="problem wrap">${reason}</p>`
            : html`<p class="muted">${WORDS[status]}</p>`
    }
  </section>`;
}

const isNumber = (text) => /^−?[\d.,]+$/.test(text);

/**
 * Show a block of the report as text nodes, so that the browser never interprets the text as
 * markup.
 */
function blockOf(block) {
  if (typeof block === "string") return block.split(/\n{2,}/).map((text) => html`<p>${text}</p>`);
  if (block.length === 0) return null;
  if (typeof block[0] === "string")
    return html`<ul>
      ${block.map((line) => html`<li>${line}</li>`)}
    </ul>`;
  const [head, ...rows] = block;
  const classOf = (at) =>
    rows.length > 0 && rows.every((row) => isNumber(row[at])) ? "num" : undefined;
  return html`<div class="scroll-x" tabindex="0" role="region" aria-label=${head.join(", ")}>
    <table class="table">
      <thead>
        <tr>
          ${head.map((cell, at) => html`<th class=${classOf(at)}>${cell}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${rows.map(
          (row) => html`<tr>
            ${row.map((cell, at) => html`<td class=${classOf(at)}>${cell}</td>`)}
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}
