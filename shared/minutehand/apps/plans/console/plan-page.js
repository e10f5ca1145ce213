// One plan: its stages while they are written, the question it asks, and its report at any moment.

import { supabase } from "../../api.js";
import { watchSession } from "../../lib/jobs.js";
import { useRead } from "../../lib/store.js";
import { html, useEffect, useState } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { download } from "../../parts/copy.js";
import { ActionButton, confirm } from "../../parts/dialog.js";
import { Failed, Loading, Stale } from "../../parts/states-of-view.js";
import { tell, tellFailure } from "../../parts/toasts.js";
import { When } from "../../parts/when.js";
import NotFound from "../../views/not-found.js";
import { isOver, picture, plans, STATES } from "./data.js";
import { PlanReport } from "./plan-report.js";

export const title = () => "Plan";

const MARKS = {
  pending: { word: "To come", tone: "pending" },
  running: { word: "Being written", tone: "processing" },
  asking: { word: "Asks you", tone: "waiting" },
  completed: { word: "Written", tone: "completed" },
  missing: { word: "Missing", tone: "failed" },
  "left out": { word: "Left out", tone: "cancelled" },
};

export default function PlanPage({ id }) {
  const found = useRead((signal) => plans.read(id, signal), [id]);
  const plan = found.value;
  const [live, setLive] = useState(new Map());
  const [freshness, setFreshness] = useState("catching-up");
  const session = plan?.session_id;
  useEffect(() => {
    if (!session) return undefined;
    let timer = null;
    let known = "";
    const soon = () => (timer ??= setTimeout(() => { timer = null; found.refresh(); }, 250));
    const watch = watchSession(supabase(), session, {
      onEvent: (event) => event.type !== "job.progress" && soon(), // the text comes with the event itself
      onChange: (state) => {
        setFreshness(state.freshness);
        setLive(new Map(state.jobs.map((job) => [job.id, job])));
        // a job that was made just now is read with its first events, which are then not told
        const now = state.jobs.map((job) => `${job.id} ${job.status} ${job.progress?.stage}`).join();
        if (now !== known) soon();
        known = now;
      },
    });
    return () => { clearTimeout(timer); watch.close(); };
  }, [session]);
  const lines = plan ? picture(plan, live) : [];
  // a stage that is stored shows as the next one's beginning
  const writing = lines.filter((line) => line.state === "running").map((line) => line.name).join();
  useEffect(() => { if (plan && writing) found.refresh(); }, [writing]);
  const done = plan?.stages.filter((stage) => stage.status === "completed").length ?? 0;
  const report = useRead(async (signal) => (plan ? plans.report(id, signal) : null), [id, done, plan?.status, plan?.run]);
  if (found.error?.status === 404 || found.error?.status === 422) return html`<${NotFound} what="plan" />`;
  if (!plan) return html`<div class="page"><h1 tabindex="-1">Plan</h1>${found.error ? html`<${Failed} error=${found.error} retry=${found.refresh} what="The plan could not be read" />` : html`<${Loading} what="Reading the plan" />`}</div>`;
  const act = (what, failure) => async () => {
    try {
      await what();
    } catch (error) {
      tellFailure(failure, error);
    }
    found.refresh();
  };
  const cancel = async () => {
    if (!(await confirm({ title: "Stop planning?", text: "What is written stays, as a partial report; the rest can be written later.", action: "Stop and deliver", danger: true }))) return;
    await act(() => plans.cancel(id), "Not stopped")();
  };
  const resume = act(async () => { await plans.resume(id); tell("What is missing is being written"); }, "Not resumed");
  const save = (what) => act(async () => {
    if (what === "md") download(`plan-${id}.md`, await plans.markdown(id));
    else download(`plan-${id}.json`, `${JSON.stringify(await plans.report(id), null, 2)}\n`, "application/json");
  }, "Not exported");
  const { word, tone } = STATES[plan.status];
  const isStopping = Boolean(plan.job?.cancel_requested_at) && !isOver(plan.status);
  return html`<article class="page">
    <header class="page-head"><div class="grow"><p class="crumb"><a href="/plans">Plans</a> / started <${When} at=${plan.created_at} /></p><h1 tabindex="-1" class="wrap">${plan.goal}</h1></div></header>
    <div class="bar"><${Tag} tone=${tone}>${isStopping ? "Stopping" : word}<//><${Freshness} value=${freshness} /><span class="spacer"></span>
      ${plan.job_id && html`<a href=${`/jobs/${plan.job_id}`}>Its job and log</a>`}
      ${!isOver(plan.status) && html`<${ActionButton} className="danger" run=${cancel}>Stop and deliver<//>`}
      ${plan.status === "partial" && html`<${ActionButton} className="primary" run=${resume}>Write what is missing<//>`}</div>
    ${found.isStale && html`<${Stale} error=${found.error} retry=${found.refresh} />`}
    ${plan.question && html`<${Asking} key=${plan.question.name} of=${plan.question} answer=${(text) => act(() => plans.answer(id, plan.question.name, text), "Not answered")()} />`}
    <section class="card" aria-labelledby="h-stages"><h2 id="h-stages">Stages</h2>
      <ol class="stack">${lines.map((line) => html`<li key=${line.name} data-stage=${line.name} data-state=${line.state}>
        <div class="bar"><span class="strong wrap">${line.title}</span><${Tag} tone=${MARKS[line.state].tone}>${MARKS[line.state].word}<//>${line.stage?.seconds > 0 && html`<span class="muted small num">${line.stage.seconds.toFixed(1)} s · ${line.stage.input_tokens + line.stage.output_tokens} tokens</span>`}</div>
        ${line.text && html`<p class="muted wrap" data-live style=${{ whiteSpace: "pre-wrap" }}>${line.text}</p>`}
        ${line.why && html`<p class="muted small wrap">${line.why}</p>`}</li>`)}</ol>
      <p class="hidden" role="status">${lines.filter((line) => line.state === "running").map((line) => `Writing: ${line.title}`).join(". ")}</p>
    </section>
    ${report.value && done > 0 && html`<section class="card stack" aria-labelledby="h-report">
      <div class="bar"><h2 id="h-report">${isOver(plan.status) ? "Report" : "Report so far"}</h2><span class="spacer"></span><${ActionButton} className="quiet" run=${save("md")}>Export as Markdown<//><${ActionButton} className="quiet" run=${save("json")}>Export as JSON<//></div>
      <${PlanReport} report=${report.value} over=${isOver(plan.status)} /></section>`}
    ${!report.value && report.error && html`<${Failed} error=${report.error} retry=${report.refresh} what="The report could not be read" />`}
  </article>`;
}

function Asking({ of, answer }) {
  const [text, setText] = useState("");
  return html`<section class="card question" aria-label="Question">
    <p class="question-text">${of.question}</p>
    ${of.options ? html`<div class="actions start">${of.options.map((option) => html`<${ActionButton} key=${option} run=${() => answer(option)}>${option}<//>`)}</div>`
      : html`<form class="answer" onSubmit=${(event) => { event.preventDefault(); if (text.trim()) answer(text.trim()); }}>
        <label class="grow"><span class="hidden">Your answer</span><textarea rows="2" maxlength="2000" value=${text} placeholder="Your answer" onInput=${(event) => setText(event.target.value)}></textarea></label>
        <button type="submit" class="primary" disabled=${!text.trim()}>Answer</button>${of.default && html`<${ActionButton} run=${() => answer(of.default)}>${of.default}<//>`}</form>`}
    ${of.timeout_at && html`<p class="muted small">If nobody answers, it goes on with its assumptions <${When} at=${of.timeout_at} />.</p>`}
  </section>`;
}
