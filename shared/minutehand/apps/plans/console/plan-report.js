// A report as text nodes: whatever a person or a model wrote stays text.

import { counted, number } from "../../lib/format.js";
import { html } from "../../lib/ui.js";
import { nameOf } from "./data.js";

const BULLETS = { listStyle: "disc", paddingInlineStart: "1.25rem" };
const NUMBERS = { listStyle: "decimal", paddingInlineStart: "1.5rem" };

const List = ({ title, of }) => of.length > 0 && html`<h3>${title}</h3><ul style=${BULLETS}>${of.map((text, index) => html`<li key=${index} class="wrap">${text}</li>`)}</ul>`;

/** @param {{report: object, over: boolean}} props `report` as the API composes it. */
export function PlanReport({ report, over }) {
  const { estimate } = report;
  return html`
    ${over && report.partial && html`<div class="notice failed" role="note" data-partial><div><p class="strong">Partial report: this is missing</p>
      <ul style=${BULLETS}>${report.missing.map((one) => html`<li key=${one.stage} class="wrap">${nameOf(one.stage, report.phases)}: ${one.reason}</li>`)}</ul></div></div>`}
    ${report.notice && html`<p class="muted small" data-notice>${report.notice}</p>`}
    ${report.summary && html`<p class="wrap">${report.summary}</p>`}
    ${report.next_step && html`<p class="wrap"><span class="strong">Next step:</span> ${report.next_step}</p>`}
    ${report.restated_goal && html`<h3>Goal</h3><p class="wrap">${report.restated_goal}</p>`}
    <${List} title="Constraints" of=${report.constraints} />
    <${List} title="Assumptions" of=${report.assumptions} />
    ${report.answers.length > 0 && html`<h3>Answers</h3><dl>${report.answers.map((one, index) => html`<div key=${index}><dt class="muted wrap">${one.question}</dt><dd class="wrap">${one.answer}</dd></div>`)}</dl>`}
    ${report.phases.length > 0 && html`<h3>Phases</h3>${report.phases.map((phase) => html`<section key=${phase.number} data-phase=${phase.number}>
      <h4 class="wrap" style=${{ margin: ".25rem 0 0" }}>${phase.number}. ${phase.title}</h4><p class="wrap muted">${phase.objective}</p>
      ${phase.status === "missing" ? html`<p class="muted">${over ? "This phase is missing." : "Still to be written."}</p>${over && phase.draft && html`<${Draft} text=${phase.draft} />`}`
        : html`<ol style=${NUMBERS}>${phase.steps.map((step, index) => html`<li key=${index} class="wrap"><span class="strong">${step.title}</span> ${step.detail}</li>`)}</ol>
          <p class="wrap small">Delivers: ${phase.deliverable} (${counted(phase.days, "day")})</p>`}</section>`)}`}
    ${estimate && estimate.phases_estimated > 0 && html`<h3>Estimate</h3><p>About ${counted(estimate.days, "working day")}${estimate.phases_estimated < estimate.phases ? ` for ${number(estimate.phases_estimated)} of ${number(estimate.phases)} phases` : ""}${estimate.deadline ? `; ${number(estimate.working_days_left)} are left until ${estimate.deadline}${estimate.fits === null ? "" : estimate.fits ? ", which is enough" : ", which is not enough"}` : ""}.</p>`}
    ${report.risks.length > 0 && html`<h3>Risks</h3><ul style=${BULLETS}>${report.risks.map((one, index) => html`<li key=${index} class="wrap"><span class="strong">${one.risk}</span> ${one.mitigation}</li>`)}</ul>`}
    <${List} title="Open" of=${report.gaps} />
    ${over && Object.entries(report.drafts).map(([stage, text]) => html`<div key=${stage}><h3>${nameOf(stage)}: unfinished text</h3><${Draft} text=${text} /></div>`)}
    ${report.models.length > 0 && html`<p class="muted small wrap">Written by ${report.models.join(", ")} · ${number(report.used.input_tokens + report.used.output_tokens)} tokens${report.used.cost_usd > 0 ? ` · ${report.used.cost_usd.toFixed(4)} US dollars` : ""}</p>`}`;
}

const Draft = ({ text }) => html`<blockquote class="muted wrap">${text}</blockquote>`;
