// The answers of a job: every question with its text and category, the regions side by side.

import { html } from "../../lib/ui.js";
import { Tag } from "../../parts/badge.js";
import { asked, responsesOf, STATES } from "./data.js";
import { marked } from "./differences.js";

/** Whether the regions that answered say the same; nothing where fewer than two did. */
const Agreement = ({ texts }) =>
  texts.length < 2
    ? null
    : new Set(texts).size === 1
      ? html`<${Tag} tone="completed">Same<//>`
      : html`<${Tag} tone="waiting">Differs<//>`;

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
          ${asked(job.spec).map((one) => {
            const given = columns.flatMap(({ id, answers }) => {
              const answer = answers.get(one.question_id);
              return answer ? [[id, answer.response]] : [];
            });
            const texts = given.map(([, text]) => text);
            const pieces = marked(texts);
            const shown = new Map(given.map(([id], at) => [id, pieces[at]]));
            return html`<tr
              key=${one.question_id}
              style=${{ verticalAlign: "top" }}
              data-question=${one.question_id}>
              <th scope="row" style=${{ minWidth: "14rem", fontWeight: "inherit" }}>
                <span class="strong wrap">${one.question}</span>
                <div class="bar">
                  <${Agreement} texts=${texts} />
                  ${one.category && html`<span class="muted small">${one.category}</span>`}
                </div>
              </th>
              ${columns.map(
                ({ id, region, status }) => html`<td
                  key=${id}
                  class=${shown.has(id) ? "wrap" : "muted"}
                  data-label=${region}>
                  <span>
                    ${
                      shown
                        .get(id)
                        ?.map(([text, isMarked]) =>
                          isMarked ? html`<mark>${text}</mark>` : text,
                        ) ?? STATES[status].word
                    }
                  </span>
                </td>`,
              )}
            </tr>`;
          })}
        </tbody>
      </table>
    </div>
  </section>`;
}
