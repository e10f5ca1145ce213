// A report as text nodes: what a person or a model wrote stays text. Charts are images.

import { html, useState } from "../../lib/ui.js";
import { DialogForm } from "../../parts/dialog-form.js";
import { field } from "../../parts/field.js";

/** @import { Report } from "./routes.js" */
/** @typedef {{kind: "table", head: string[], rows: string[][]}} TableBlock */
/**
 * @typedef {{kind: "paragraph" | "heading", text: string} | TableBlock
 *   | {kind: "verdict", text: string, tone: "good" | "doubtful" | "bad"} | {kind: "list", items: string[]}
 *   | {kind: "chart", name: string, svg: string, text: string}} ReportBlock
 */

const BULLETS = { listStyle: "disc", paddingInlineStart: "1.25rem" };
const TONES = { good: "completed", doubtful: "waiting", bad: "failed" };

/** @typedef {(text: string, means: string) => Promise<unknown>} Correct Computes the plan again with other words. */

/** @param {{report: Report, over: boolean, correct: Correct | null}} props `report` as the API composes it. */
export function PlanReport({ report, over, correct }) {
  return html`
    ${
      over &&
      report.partial &&
      html`<div class="notice failed" role="note" data-partial>
        <div>
          <p class="strong">This report is partial. What is missing, and why:</p>
          <ul style=${BULLETS}>
            ${report.missing.map(
              (one) => html`<li key=${one.stage} class="wrap">
                ${one.title}: ${one.reason}
              </li>`,
            )}
          </ul>
        </div>
      </div>`
    }
    <p class="muted small" data-notice>${report.notice}</p>
    ${report.chapters.map(
      (chapter) => html`<section
        key=${chapter.stage}
        data-chapter=${chapter.stage}
        style=${{ minWidth: 0 }}>
        <h3>${chapter.title}</h3>
        ${chapter.blocks.map((block, index) => html`<${Block} key=${index} of=${block} />`)}
        ${
          correct &&
          chapter.stage === "understand" &&
          html`<${Ledger} blocks=${chapter.blocks} prompt=${report.prompt} correct=${correct} />`
        }
        ${chapter.model && html`<p class="muted small">Text by ${chapter.model}.</p>`}
      </section>`,
    )}
  `;
}

/**
 * What the prompt states, to be corrected line by line: each makes another plan.
 *
 * @param {{blocks: ReportBlock[], prompt: string, correct: Correct}} props
 */
function Ledger({ blocks, prompt, correct }) {
  const [text, setText] = useState(/** @type {string | null} */ (null));
  const [means, setMeans] = useState("");
  const stated = prompt.replace(/\s+/g, " ");
  const figures = blocks.flatMap((block) => (block.kind === "table" ? block.rows : []));
  const lines = figures.map(([words]) => words).filter((words) => stated.includes(words));
  if (lines.length === 0) return null;
  return html`
    <div class="actions start" role="group" aria-label="Correct a figure">
      ${[...new Set(lines)].map(
        (words) =>
          html`<button
            key=${words}
            type="button"
            class="quiet small"
            onClick=${() => {
              setText(words);
              setMeans(words);
            }}>
            Correct “${words}”
          </button>`,
      )}
    </div>
    ${
      text !== null &&
      html`<${DialogForm}
        title=${`What does “${text}” mean?`}
        action="Compute again"
        run=${() => {
          setText(null);
          return correct(text, means.trim());
        }}
        disabled=${means.trim() === text}
        onClose=${() => setText(null)}>
        ${field("In other words", means, setMeans, { maxlength: 500 })}
        <p class="muted">Another plan is computed with these words; this one stays as it is.</p>
      <//>`
    }
  `;
}

/** @param {{of: ReportBlock}} props */
function Block({ of }) {
  if (of.kind === "verdict")
    return html`<p class=${`notice ${TONES[of.tone] ?? "pending"} wrap strong`}>${of.text}</p>`;
  if (of.kind === "heading") return html`<h4>${of.text}</h4>`;
  if (of.kind === "list")
    return html`<ul style=${BULLETS}>
      ${of.items.map((item, index) => html`<li key=${index} class="wrap">${item}</li>`)}
    </ul>`;
  if (of.kind === "table") return html`<${Table} of=${of} />`;
  if (of.kind === "chart")
    return html`<div class="scroll-x" tabindex="0" role="group" aria-label=${of.text}>
      <img
        src=${`data:image/svg+xml;charset=utf-8,${encodeURIComponent(of.svg)}`}
        alt=${of.text}
        style=${{ minWidth: "40rem", width: "100%" }} />
    </div>`;
  return html`<p class="wrap">${of.text}</p>`;
}

/** @param {{of: TableBlock}} props */
const Table = ({ of }) => html`<div
  class="scroll-x"
  tabindex="0"
  role="group"
  aria-label=${of.head.filter(Boolean).join(", ") || "Key figures"}>
  <table class="table">
    ${
      of.head.some(Boolean) &&
      html`<thead>
        <tr>
          ${of.head.map(
            (cell, index) => html`<th key=${index} scope="col">
              ${cell || html`<span class="hidden">Remark</span>`}
            </th>`,
          )}
        </tr>
      </thead>`
    }
    <tbody>
      ${of.rows.map(
        (row, index) => html`<tr key=${index}>
          ${row.map((cell, place) => html`<td key=${place} class="wrap">${cell}</td>`)}
        </tr>`,
      )}
    </tbody>
  </table>
</div>`;
