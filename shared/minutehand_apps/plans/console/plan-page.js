// One plan: its stages on a timeline while they run, its log, its report at any moment, its files.

import { watchEntity } from "../../lib/entity.js";
import { useRead } from "../../lib/store.js";
import { navigate } from "../../lib/router.js";
import { html, useEffect, useRef, useState } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { download } from "../../parts/copy.js";
import { ActionButton, confirm } from "../../parts/dialog.js";
import { Failed, Stale } from "../../parts/states-of-view.js";
import { column, heading, table } from "../../parts/table.js";
import { actionsOn } from "../../parts/toasts.js";
import { Unread } from "../../parts/unread.js";
import { When } from "../../parts/when.js";
import NotFound from "../../views/not-found.js";
import { isOver, plans, shortened, speedOf, STATES, timeline } from "./data.js";
import { PlanReport } from "./plan-report.js";

/** @import { Artifact, PlanEvent, PlanState, StageState } from "./routes.js" */
/** @import { Act } from "../../parts/toasts.js" */

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
    const watch = watchEntity(
      {
        name: "plan",
        id: plan.plan_id,
        topic: plan.realtime_topic,
        read: (after) => plans.events(id, after),
      },
      {
        onEvents: (more) => {
          setEvents((before) => [...before, ...more]);
          soon();
        },
        onFreshness: setFreshness,
        onGone: () => setIsGone(true),
      },
    );
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
    return html`<div class="page">
      <h1 tabindex="-1">Plan</h1>
      <p>This plan was deleted.</p>
      <p><a href="/plans">All plans</a></p>
    </div>`;
  if (found.error?.status === 404 || found.error?.status === 422)
    return html`<${NotFound} what="plan" />`;
  if (!plan)
    return html`<div class="page">
      <h1 tabindex="-1">Plan</h1>
      <${Unread} of=${found} what="the plan" />
    </div>`;
  const act = actionsOn(found.refresh);
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
    await act(
      "Could not delete",
      async () => {
        await plans.remove(id);
        navigate("/plans");
      },
      "Plan deleted",
    );
  };
  const restart = () =>
    act("Could not restart", () => plans.restart(id), "Restarted; finished stages are kept");
  /** @param {string} stage @param {{text: string, means: string}[]} [corrections] */
  const regenerate = (stage, corrections = []) =>
    act("Could not regenerate", async () =>
      navigate(`/plans/${(await plans.regenerate(id, { stage, corrections })).plan_id}`),
    );
  const latest = events.at(-1);
  const asking = !isOver(plan.status) && latest?.type === "plan_question" ? latest : null;
  const { word, tone } = STATES[plan.status];
  return html`<article class="page">
    <header class="page-head">
      <div class="grow">
        <p class="crumb"><a href="/plans">Plans</a> / created <${When} at=${plan.created_at} /></p>
        <h1 tabindex="-1" class="wrap">
          ${shortened(plan.prompt, 160)}
        </h1>
      </div>
    </header>
    <div class="bar">
      <${Tag} tone=${tone}>${word}<//>
      <span class="num" data-percentage>${Math.round(plan.percentage)} %</span>
      <span class="muted">${speedOf(plan.speed_vs_detail)}</span>
      <${Freshness} value=${freshness} />
      <span class="spacer"></span>
      ${plan.job_id && html`<a href=${`/jobs/${plan.job_id}`}>Its job</a>`}
      ${
        !isOver(plan.status) &&
        html`<${ActionButton} run=${() => act("Could not cancel", () => plans.cancel(id))}>
          Cancel
        <//>`
      }
      ${
        ["failed", "cancelled"].includes(plan.status) &&
        html`<${ActionButton} className="primary" run=${restart}>
          Restart
        <//>`
      }
      <${ActionButton} className="danger" run=${remove}>Delete<//>
    </div>
    ${found.isStale && html`<${Stale} error=${found.error} retry=${found.refresh} />`}
    ${
      plan.prompt.length > 160 &&
      html`<section class="card">
        <h2>Prompt</h2>
        <p class="wrap">${plan.prompt}</p>
      </section>`
    }
    ${
      plan.forked_from &&
      html`<p class="muted">
        Regenerated from ${plan.stages.find((stage) => stage.name === plan.forked_at_stage)?.title} of <a
          href=${`/plans/${plan.forked_from}`}>
          another plan
        </a>.
      </p>`
    }
    ${
      asking &&
      html`<div class="notice waiting" role="status">
        <p class="wrap">
          ${asking.data.question} <a href=${`/jobs/${plan.job_id}`}>
            Answer or skip it on the job's page
          </a>
        </p>
      </div>`
    }
    ${
      plan.error &&
      html`<div class="notice failed" role="alert">
        <p class="wrap">${plan.error.reason}</p>
      </div>`
    }
    <${Stages} plan=${plan} regenerate=${isOver(plan.status) ? regenerate : null} />
    <${Log} events=${events} />
    ${
      report.value &&
      done > 0 &&
      html`<section class="card stack" aria-labelledby="h-report">
        <h2 id="h-report">${isOver(plan.status) ? "Report" : "Report so far"}</h2>
        <${PlanReport}
          report=${report.value}
          over=${isOver(plan.status)}
          correct=${isOver(plan.status) ? (/** @type {string} */ text, /** @type {string} */ means) => regenerate("understand", [{ text, means }]) : null} />
      </section>`
    }
    ${
      !report.value &&
      report.error &&
      html`<${Failed}
        error=${report.error}
        retry=${report.refresh}
        what="The report could not be read" />`
    }
    ${files.value && html`<${Files} id=${id} files=${files.value.files} act=${act} />`}
  </article>`;
}

/**
 * @param {{plan: PlanState, regenerate: ((stage: string) => Promise<unknown>) | null}} props `regenerate` only once
 *   the plan has ended.
 */
function Stages({ plan, regenerate }) {
  const bars = timeline(plan.stages, Date.now());
  const running = plan.stages
    .filter((stage) => stage.status === "running")
    .map((stage) => stage.title);
  const titles = new Map(plan.stages.map((stage) => [stage.name, stage.title]));
  return html`<section class="card" aria-labelledby="h-stages">
    <h2 id="h-stages">Stages</h2>
    ${table(
      {
        label: "Stages on a timeline",
        rows: plan.stages,
        key: (stage) => stage.name,
        attributes: (stage) => ({ "data-stage": stage.name, "data-state": stage.status }),
      },
      [
        heading(
          "Stage",
          (stage) => html`
            ${stage.title}
            ${stage.reason && html`<p class="muted small wrap">${stage.reason}</p>`}
          `,
        ),
        column(
          "State",
          ({ status }) => html`<${Tag} tone=${STATES[status].tone}>${STATES[status].word}<//>`,
        ),
        column("Needs", "muted small wrap", ({ needs }) =>
          needs.length > 6 ? "all others" : needs.map((name) => titles.get(name)).join(", "),
        ),
        column("When", (stage) => {
          const bar = bars.get(stage.name);
          return html`<div style=${{ minWidth: "12rem" }}>
            ${
              bar &&
              html`<div
                style=${{ marginInlineStart: `${Math.min(99, bar.left)}%`, width: `${Math.max(1, bar.width)}%`, height: ".6rem", borderRadius: "2px", background: "currentColor", opacity: 0.6 }}></div>`
            }
          </div>`;
        }),
        column("Seconds", "num", ({ seconds }) => seconds?.toFixed(2) ?? ""),
        ...(regenerate
          ? [
              column(
                "Actions",
                (/** @type {StageState} */ stage) => html`<${ActionButton}
                  className="quiet small"
                  aria-label=${`Regenerate from here: ${stage.title}`}
                  run=${() => regenerate(stage.name)}>
                  Regenerate from here
                <//>`,
              ),
            ]
          : []),
      ],
    )}
    <p class="hidden" role="status">
      ${running.length > 0 ? `Running: ${running.join(", ")}` : ""}
    </p>
  </section>`;
}

/** @param {{events: PlanEvent[]}} props */
function Log({ events }) {
  const ref = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => {
    if (ref.current) ref.current.scrollTop = ref.current.scrollHeight;
  }, [events.length]);
  return html`<section class="card" aria-labelledby="h-log">
    <h2 id="h-log">Events</h2>
    <div
      ref=${ref}
      class="scroll-x"
      tabindex="0"
      role="log"
      aria-labelledby="h-log"
      style=${{ maxHeight: "16rem", overflowY: "auto" }}>
      <ol class="mono small" data-events=${events.length}>
        ${events.map(
          (event) => html`<li key=${event.seq} class="wrap">
            <span class="muted num">${event.seq}</span> ${event.type} ${event.data.stage ?? ""} ${event.data.message ?? event.data.name ?? event.data.reason ?? ""}
          </li>`,
        )}
      </ol>
    </div>
  </section>`;
}

/** @param {{id: string, files: Artifact[], act: Act}} props */
const Files = ({ id, files, act }) => html`<section class="card" aria-labelledby="h-files">
  <div class="bar">
    <h2 id="h-files">Files</h2>
    <span class="spacer"></span>
    <${ActionButton}
      className="quiet"
      run=${() => act("Could not download", async () => download(`plan-${id}.zip`, await plans.zip(id)))}>
      Download all as zip
    <//>
  </div>
  <ul class="stack">
    ${files.map(
      (file) => html`<li key=${file.name} class="bar">
        <${ActionButton}
          className="quiet"
          run=${() => act("Could not download", async () => download(file.name, await plans.file(id, file.name)))}>
          ${file.name}
        <//>
        <span class="muted small num">${file.bytes.toLocaleString("en")} bytes</span>
      </li>`,
    )}
  </ul>
</section>`;
