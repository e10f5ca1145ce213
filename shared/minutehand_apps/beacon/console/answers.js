// The answers of a job: every question with its text and category, the regions side by side.

import { html, useState } from "../../lib/ui.js";
import { asked, STATES } from "./data.js";
import { differences } from "./differences.js";

/** @import { ExecutionWithOutput, JobState, Response, Submission } from "./routes.js" */
/** @typedef {ExecutionWithOutput & {name: string, answers: Map<string, Response>}} Column */

/**
 * @param {ExecutionWithOutput} execution
 * @param {boolean} several Whether the job asks several models.
 */
const nameOf = ({ region, model }, several) => (several ? `${region} · ${model}` : region);

/** @param {{job: JobState}} props A job as the API gives it, with outputs. */
export function Answers({ job }) {
  const several = new Set(job.executions.map(({ model }) => model)).size > 1;
  /** @type {Column[]} */
  const columns = job.executions.map((one) => ({
    ...one,
    name: nameOf(one, several),
    answers: new Map((one.output?.data.responses ?? []).map((each) => [each.question_id, each])),
  }));
  const answered = columns.filter(({ output }) => output);
  const [baseId, setBase] = useState("");
  const base = answered.find(({ id }) => id === baseId) ?? null;
  return html`<section class="card stack" aria-labelledby="h-answers">
    <div class="bar">
      <h2 id="h-answers">Answers</h2>
      <span class="spacer"></span>
      ${
        answered.length > 1 &&
        html`<label class="bar small">
          <span>Differences from</span>
          <select
            value=${base?.id ?? ""}
            onChange=${(/** @type {Event & {target: HTMLSelectElement}} */ event) => setBase(event.target.value)}>
            <option value="">none</option>
            ${answered.map(({ id, name }) => html`<option key=${id} value=${id}>${name}</option>`)}
          </select>
        </label>`
      }
    </div>
    <div class="scroll-x" tabindex="0" role="group" aria-label="Answers">
      <table class="table">
        <thead>
          <tr>
            <th scope="col">Question</th>
            ${columns.map(
              ({ id, name }) => html`<th key=${id} scope="col" style=${{ minWidth: "14rem" }}>
                ${name}
              </th>`,
            )}
          </tr>
        </thead>
        <tbody>
          ${asked(/** @type {Submission} */ (job.spec)).map(
            (one) => html`<tr
              key=${one.question_id}
              style=${{ verticalAlign: "top" }}
              data-question=${one.question_id}>
              <th scope="row" style=${{ minWidth: "14rem", fontWeight: "inherit" }}>
                <span class="strong wrap">${one.question}</span>
                <div class="muted small">
                  <code>${one.question_id}</code>
                  ${one.category && html` · ${one.category}`}
                </div>
              </th>
              ${columns.map(
                (column) => html`<td key=${column.id} class="wrap">
                  <${Answer}
                    column=${column}
                    answer=${column.answers.get(one.question_id)}
                    base=${base && base.id !== column.id ? base.answers.get(one.question_id) : null} />
                </td>`,
              )}
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
    ${
      base &&
      html`<p class="muted small">
        Compared with ${base.name}: <ins>added</ins> words are underlined, <del>removed</del> ones struck through.
      </p>`
    }
  </section>`;
}

/**
 * @param {{column: Column, answer: Response | undefined, base: Response | null | undefined}} props What an
 *   execution answered, beside what is compared with it.
 */
function Answer({ column, answer, base }) {
  if (!answer) return html`<span class="muted">${STATES[column.status].word}</span>`;
  const runs = base ? differences(base.response, answer.response) : null;
  const tags = { same: "span", added: "ins", removed: "del" };
  return html`
    <div>
      ${runs ? runs.map(({ kind, text }, index) => html`<${tags[kind]} key=${index}>${text}<//>`) : answer.response}
      ${runs?.every(({ kind }) => kind === "same") && html` <span class="muted small">the same</span>`}
    </div>
    <div class="muted small num" style=${{ textAlign: "left" }}>${answer.duration_ms} ms</div>
  `;
}
