// One plan: its stages on a timeline while they run, its log, its report at any moment, its files.

import { useRead } from "../../lib/store.js";
import { navigate } from "../../lib/router.js";
import { html, useEffect, useRef, useState } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { download } from "../../parts/copy.js";
import { ActionButton, confirm } from "../../parts/dialog.js";
import { Failed, Loading, Stale } from "../../parts/states-of-view.js";
import { notify, notifyFailure } from "../../parts/toasts.js";
import { When } from "../../parts/when.js";
import NotFound from "../../views/not-found.js";
import { isOver, plans, speedOf, STATES, timeline, watchPlan } from "./data.js";
import { PlanReport } from "./plan-report.js";

/** @import { Artifact, PlanEvent, PlanState } from "./routes.js" */
/** @typedef {(what: () => Promise<unknown>, failure: string) => () => Promise<void>} Act What a button does. */

export const title = () => "Plan";

/** @param {{id: string}} props */
export default function PlanPage({ id }) {
  const found = useRead((signal) => plans.read(id, signal), [id]);
  const plan = found.value;
  const [events, setEvents] = useState(/** @type {PlanEvent[]} */ ([]));
  const [freshness, setFreshness] = useState("catching-up");
  const [isGone, setIsGone] = useState(false);
  useEffect(() => {
    if (!plan) return undefined;
    /** @type {number | null} */
    let timer = null;
    const soon = () =>
      (timer ??= setTimeout(() => {
        timer = null;
        found.refresh();
      }, 200));
    setEvents([]);
    const watch = watchPlan(plan, {
      onEvents: (more) => {
        setEvents((before) => [...before, ...more]);
        soon();
      },
      onFreshness: setFreshness,
      onGone: () => setIsGone(true),
    });
    return () => {
      clearTimeout(/** @type {number} */ (timer));
      watch.close();
    };
  }, [plan?.plan_id]);
  const done = plan?.stages.filter((stage) => stage.status === "completed").length ?? 0;
  const report = useRead(
    async (signal) => (plan ? plans.report(id, signal) : null),
    [id, done, plan?.status, plan?.run],
  );
  const files = useRead(
    async (signal) => (plan && isOver(plan.status) ? plans.files(id, signal) : null),
    [id, plan?.status, plan?.run],
  );
  if (isGone)
    return html`<div class="page"><h1 tabindex="-1">Plan</h1><p>This plan was deleted.</p><p><a href="/plans">All plans</a></p></div>`;
  if (found.error?.status === 404 || found.error?.status === 422)
    return html`<${NotFound} what="plan" />`;
  if (!plan)
    return html`<div class="page"><h1 tabindex="-1">Plan</h1>${found.error ? html`<${Failed} error=${found.error} retry=${found.refresh} what="The plan could not be read" />` : html`<${Loading} what="Reading the plan" />`}</div>`;
  /** @type {Act} */
  const act = (what, failure) => async () => {
    try {
      await what();
    } catch (error) {
      notifyFailure(failure, error);
    }
    found.refresh();
  };
  const remove = async () => {
    if (
      !(await confirm({
        title: "Delete this plan?",
        text: "Its report and files go with it. This cannot be undone.",
        action: "Delete plan",
        danger: true,
      }))
    )
      return;
    await act(async () => {
      await plans.remove(id);
      notify("Plan deleted");
      navigate("/plans");
    }, "Not deleted")();
  };
  const restart = act(async () => {
    await plans.restart(id);
    notify("Restarted; finished stages are kept");
  }, "Not restarted");
  const regenerate = (/** @type {string} */ stage) =>
    act(
      async () => navigate(`/plans/${(await plans.regenerate(id, stage)).plan_id}`),
      "Not regenerated",
    )();
  const { word, tone } = STATES[plan.status];
  return html`<article class="page">
    <header class="page-head"><div class="grow"><p class="crumb"><a href="/plans">Plans</a> / created <${When} at=${plan.created_at} /></p><h1 tabindex="-1" class="wrap">${plan.prompt.length > 160 ? `${plan.prompt.slice(0, 159)}…` : plan.prompt}</h1></div></header>
    <div class="bar"><${Tag} tone=${tone}>${word}<//><span class="num" data-percentage>${Math.round(plan.percentage)} %</span><span class="muted">${speedOf(plan.speed_vs_detail)}</span><${Freshness} value=${freshness} /><span class="spacer"></span>
      ${plan.job_id && html`<a href=${`/jobs/${plan.job_id}`}>Its job</a>`}
      ${!isOver(plan.status) && html`<${ActionButton} run=${act(() => plans.cancel(id), "Not cancelled")}>Cancel<//>`}
      ${["failed", "cancelled"].includes(plan.status) && html`<${ActionButton} className="primary" run=${restart}>Restart<//>`}
      <${ActionButton} className="danger" run=${remove}>Delete<//></div>
    ${found.isStale && html`<${Stale} error=${found.error} retry=${found.refresh} />`}
    ${plan.prompt.length > 160 && html`<section class="card"><h2>Prompt</h2><p class="wrap">${plan.prompt}</p></section>`}
    ${plan.forked_from && html`<p class="muted">Regenerated from ${plan.stages.find((stage) => stage.name === plan.forked_at_stage)?.title} of <a href=${`/plans/${plan.forked_from}`}>another plan</a>.</p>`}
    ${plan.error && html`<div class="notice failed" role="alert"><p class="wrap">${plan.error.reason}</p></div>`}
    <${Stages} plan=${plan} regenerate=${isOver(plan.status) ? regenerate : null} />
    <${Log} events=${events} />
    ${
      report.value &&
      done > 0 &&
      html`<section class="card stack" aria-labelledby="h-report">
      <h2 id="h-report">${isOver(plan.status) ? "Report" : "Report so far"}</h2>
      <${PlanReport} report=${report.value} over=${isOver(plan.status)} /></section>`
    }
    ${!report.value && report.error && html`<${Failed} error=${report.error} retry=${report.refresh} what="The report could not be read" />`}
    ${files.value && html`<${Files} id=${id} files=${files.value.files} act=${act} />`}
  </article>`;
}

/**
 * @param {{plan: PlanState, regenerate: ((stage: string) => Promise<void>) | null}} props `regenerate` only once
 *   the plan has ended.
 */
function Stages({ plan, regenerate }) {
  const bars = timeline(plan.stages, Date.now());
  const running = plan.stages
    .filter((stage) => stage.status === "running")
    .map((stage) => stage.title);
  const titles = new Map(plan.stages.map((stage) => [stage.name, stage.title]));
  return html`<section class="card" aria-labelledby="h-stages"><h2 id="h-stages">Stages</h2>
    <div class="scroll-x" tabindex="0" role="group" aria-label="Stages on a timeline"><table class="table"><thead><tr><th scope="col">Stage</th><th scope="col">State</th><th scope="col">Needs</th><th scope="col" style=${{ minWidth: "12rem" }}>When</th><th scope="col">Seconds</th>${regenerate && html`<th scope="col"><span class="hidden">Actions</span></th>`}</tr></thead>
      <tbody>${plan.stages.map((stage) => {
        const bar = bars.get(stage.name);
        const needs =
          stage.needs.length > 6
            ? "all others"
            : stage.needs.map((name) => titles.get(name)).join(", ");
        return html`<tr key=${stage.name} data-stage=${stage.name} data-state=${stage.status}><th scope="row">${stage.title}${stage.reason && html`<p class="muted small wrap">${stage.reason}</p>`}</th>
          <td><${Tag} tone=${STATES[stage.status].tone}>${STATES[stage.status].word}<//></td><td class="muted small wrap">${needs}</td>
          <td>${bar && html`<div style=${{ marginInlineStart: `${Math.min(99, bar.left)}%`, width: `${Math.min(100 - Math.min(99, bar.left), bar.width)}%`, height: ".6rem", borderRadius: "2px", background: "currentColor", opacity: 0.6 }}></div>`}</td>
          <td class="num">${stage.seconds === null ? "" : stage.seconds.toFixed(2)}</td>
          ${regenerate && html`<td><${ActionButton} className="quiet small" aria-label=${`Regenerate from here: ${stage.title}`} run=${() => regenerate(stage.name)}>Regenerate from here<//></td>`}</tr>`;
      })}</tbody></table></div>
    <p class="hidden" role="status">${running.length > 0 ? `Running: ${running.join(", ")}` : ""}</p>
  </section>`;
}

/** @param {{events: PlanEvent[]}} props */
function Log({ events }) {
  const ref = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => {
    if (ref.current) ref.current.scrollTop = ref.current.scrollHeight;
  }, [events.length]);
  return html`<section class="card" aria-labelledby="h-log"><h2 id="h-log">Events</h2>
    <div ref=${ref} class="scroll-x" tabindex="0" role="log" aria-labelledby="h-log" style=${{ maxHeight: "16rem", overflowY: "auto" }}>
      <ol class="mono small" data-events=${events.length}>${events.map((event) => html`<li key=${event.seq} class="wrap"><span class="muted num">${event.seq}</span> ${event.type} ${event.data.stage ?? ""} ${event.data.message ?? event.data.name ?? event.data.reason ?? ""}</li>`)}</ol></div>
  </section>`;
}

/** @param {{id: string, files: Artifact[], act: Act}} props */
const Files = ({ id, files, act }) => html`<section class="card" aria-labelledby="h-files">
  <div class="bar"><h2 id="h-files">Files</h2><span class="spacer"></span><${ActionButton} className="quiet" run=${act(async () => download(`plan-${id}.zip`, await plans.zip(id)), "Not downloaded")}>Download all as zip<//></div>
  <ul class="stack">${files.map((file) => html`<li key=${file.name} class="bar"><${ActionButton} className="quiet" run=${act(async () => download(file.name, await plans.file(id, file.name)), "Not downloaded")}>${file.name}<//><span class="muted small num">${file.bytes.toLocaleString("en")} bytes</span></li>`)}</ul>
</section>`;
