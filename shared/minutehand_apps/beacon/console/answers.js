// The answers of a job: every question with its text and category, the regions side by side.

import { html } from "../../lib/ui.js";
import { asked, responsesOf, STATES } from "./data.js";

export function Answers({ job }) {
  const columns = job.executions.map((one) => ({
    ...one,
    answers: new Map(responsesOf(one.output).map((each) => [each.question_id, each])),
  }));
  return html`<section class="card stack" aria-labelledby="h-answers">
    <h2 id="h-answers">Answers</h2>
    <div class="scroll-x" tabindex="0" role="group" aria-label="Answers">
      <table class="table cards">
        <thead>
          <tr>
            <th scope="col">Question</th>
            ${columns.map(
              ({ id, region }) => html`<th key=${id} scope="col" style=${{ minWidth: "14rem" }}>
                ${region}
              </th>`,
            )}
          </tr>
        </thead>
        <tbody>
          ${asked(job.spec).map(
            (one) => html`<tr
              key=${one.question_id}
              style=${{ verticalAlign: "top" }}
              data-question=${one.question_id}>
              <th scope="row" style=${{ minWidth: "14rem", fontWeight: "inherit" }}>
                <span class="strong wrap">${one.question}</span>
                ${one.category && html`<div class="muted small">${one.category}</div>`}
              </th>
              ${columns.map(({ id, region, status, answers }) => {
                const answer = answers.get(one.question_id);
                return html`<td key=${id} class=${answer ? "wrap" : "muted"} data-label=${region}>
                  ${answer ? answer.response : STATES[status].word}
                </td>`;
              })}
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
  </section>`;
}
