// Table of the answers of a job. The table has a row for each question, with the question's text
// and category, and a column for each region.

import { html, number, pluralize, Tag, When } from "../../app.js";
import { questionsOf, responsesOf, STATES } from "./data.js";

/**
 * Tag that shows whether all regions gave the same answer. The tag is shown if at least two regions
 * have answered.
 */
const Agreement = ({ texts }) =>
  texts.length < 2
    ? null
    : new Set(texts).size === 1
      ? html`<${Tag} tone="completed">Same<//>`
      : html`<${Tag} tone="waiting">Differs<//>`;

/** Key of a question. A new version of a spec may give the id of a question to another one. */
const keyOf = ({ question_id, question }) => `${question_id} ${question}`;

/** Return the answers of an execution by the keys of the questions. */
const answersOf = (execution) =>
  new Map(responsesOf(execution?.output).map((each) => [keyOf(each), each.response]));

/**
 * Return whether an answer differs from the answer of the earlier job, or undefined if one of them
 * is missing.
 */
const hasChanged = ({ answers, before }, key) =>
  answers.has(key) && before.has(key) ? answers.get(key) !== before.get(key) : undefined;

/** Sentence that counts the answers that differ from the answers of the earlier job. */
const Drift = ({ columns, previous }) => {
  const pairs = columns
    .flatMap((column) => [...column.answers.keys()].map((key) => hasChanged(column, key)))
    .filter((one) => one !== undefined);
  return html`<p class="muted">
    ${number(pairs.filter(Boolean).length)} of ${pluralize(pairs.length, "answer")} changed
    ${" since the run "}
    <a href=${`/benchmarks/${previous.id}`}><${When} at=${previous.created_at} /></a>.
  </p>`;
};

export function Answers({ job, previous, isSample }) {
  const columns = job.executions.map((one) => ({
    ...one,
    answers: answersOf(one),
    before: answersOf(previous?.executions.find(({ region }) => region === one.region)),
  }));
  return html`<section class="card stack" aria-labelledby="h-answers">
    <h2 id="h-answers">Answers</h2>
    ${previous && html`<${Drift} columns=${columns} previous=${previous} />`}
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
          ${questionsOf(job.spec).map((one) => {
            const responses = columns.map(({ answers }) => answers.get(keyOf(one)));
            return html`<tr
              key=${one.question_id}
              style=${{ verticalAlign: "top" }}
              data-question=${one.question_id}>
              <th scope="row" style=${{ minWidth: "14rem", fontWeight: "inherit" }}>
                <span class="strong wrap">${one.question}</span>
                <div class="bar">
                  ${!isSample && html`<${Agreement} texts=${responses.filter(Boolean)} />`}
                  ${one.category && html`<span class="muted small">Category: ${one.category}</span>`}
                </div>
              </th>
              ${columns.map(
                (column, at) => html`<td
                  key=${column.id}
                  class=${responses[at] ? "wrap" : "muted"}
                  data-label=${column.region}>
                  ${responses[at] ?? STATES[column.status].word}
                  ${hasChanged(column, keyOf(one)) && html` <${Tag} tone="waiting">Changed<//>`}
                </td>`,
              )}
            </tr>`;
          })}
        </tbody>
      </table>
    </div>
  </section>`;
}
