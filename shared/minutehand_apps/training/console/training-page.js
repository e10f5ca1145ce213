// One training: its stages while they are done, the video, the procedure beside it, and the transcript.

import { supabase } from "../../api.js";
import { watchSession } from "../../lib/jobs.js";
import { useWatched } from "../../lib/live.js";
import { navigate } from "../../lib/router.js";
import { useRead } from "../../lib/store.js";
import { html, useRef, useState } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { ActionButton, confirm } from "../../parts/dialog.js";
import { Going, useRemoval } from "../../parts/removal.js";
import { Failed, Stale } from "../../parts/states-of-view.js";
import { actionsOn, notify } from "../../parts/toasts.js";
import { When } from "../../parts/when.js";
import { Unread } from "../../parts/unread.js";
import NotFound from "../../views/not-found.js";
import { Bar } from "./bar.js";
import { clock, isOver, picture, STATES, trainings } from "./data.js";
import { ProcedureCard } from "./procedure-card.js";
import { JobMonitor } from "./job-monitor.js";
import { Video } from "./video.js";

/** @import { Workspace } from "../../api.js" */
/** @import { SessionJob } from "../../lib/jobs/types.js" */
/** @import { SpokenSegment } from "./routes.js" */
/** @import { Filter } from "./job-monitor.js" */
/** @import { Player } from "./video.js" */

export const title = () => "Training";

/** @type {SpokenSegment[]} */
const NOTHING = [];
const MARKS = {
  pending: { word: "To come", tone: "pending" },
  running: { word: "Under way", tone: "processing" },
  completed: { word: "Done", tone: "completed" },
  failed: { word: "Failed", tone: "failed" },
  missing: { word: "Not done", tone: "cancelled" },
};

/** @param {{id: string, workspace: Workspace}} props */
export default function TrainingPage({ id, workspace }) {
  const { isGoing, remove } = useRemoval();
  if (isGoing) return html`<${Going} what="Training" />`;
  const removeIt = (/** @type {string} */ named) =>
    remove(
      {
        title: "Delete the training?",
        text: "The video, its transcript and every version of its procedure are deleted permanently.",
      },
      () => trainings.remove(id),
      () => {
        notify(`${named} is deleted`);
        navigate("/trainings");
      },
    );
  return html`<${Training} id=${id} workspace=${workspace} remove=${removeIt} />`;
}

/** @param {{id: string, workspace: Workspace, remove: (named: string) => Promise<void>}} props */
function Training({ id, workspace, remove }) {
  const [filter, setFilter] = useState(/** @type {Filter} */ ({}));
  const found = useRead((signal) => trainings.read(id, signal), [id]);
  const training = found.value;
  const [live, setLive] = useState(/** @type {Map<string, SessionJob>} */ (new Map()));
  const player = useRef(/** @type {Player | null} */ (null));
  const session = training?.session_id;
  const freshness = useWatched(
    found,
    ({ onEvent, onChange }) => {
      if (!session) return { close() {} };
      let known = "";
      return watchSession(supabase(), session, {
        onEvent: (event) => event.type !== "job.progress" && onEvent(),
        onChange: (state) => {
          onChange(state);
          setLive(new Map(state.jobs.map((job) => [job.id, job])));
          // a job that was made just now is read with its first events, which are then not told
          const now = state.jobs
            .map((job) => `${job.id} ${job.status} ${job.progress?.stage}`)
            .join();
          if (now !== known) onEvent();
          known = now;
        },
      });
    },
    [session],
  );
  const heard = training?.heard ?? 0;
  const transcript = useRead(
    async (signal) => (heard > 0 ? trainings.transcript(id, signal) : null),
    [id, heard],
  );
  if (found.error?.status === 404 || found.error?.status === 422)
    return html`<${NotFound} what="training" />`;
  if (!training)
    return html`<div class="page">
      <h1 tabindex="-1">Training</h1>
      <${Unread} of=${found} what="the training" />
    </div>`;
  const act = actionsOn(found.refresh);
  const cancel = async () => {
    if (
      !(await confirm({
        title: "Stop the work?",
        text: "What is finished stays, and the rest can be taken up again later.",
        action: "Stop",
        danger: true,
      }))
    )
      return;
    await act("Could not stop", () => trainings.cancel(id));
  };
  const { word, tone } = STATES[training.status];
  const isStopping = Boolean(training.cancel_requested_at) && !isOver(training.status);
  const lines = picture(training, live);
  const isThere = training.stages.some(
    (stage) => stage.name === "verify" && stage.status === "completed",
  );
  const jump = (/** @type {number} */ seconds) => player.current?.jump(seconds);
  return html`<article class="page">
    <header class="page-head">
      <div class="grow">
        <p class="crumb">
          <a href="/trainings">Training</a> / uploaded <${When} at=${training.created_at} />
        </p>
        <h1 tabindex="-1" class="wrap">${training.title}</h1>
      </div>
    </header>
    <div class="bar">
      <${Tag} tone=${tone}>${isStopping ? "Stopping" : word}<//>
      <${Freshness} value=${freshness} />
      <span class="spacer"></span>
      ${!isOver(training.status) && html`<${ActionButton} className="danger" run=${cancel}>Stop<//>`}
      ${
        (training.status === "failed" || training.status === "cancelled") &&
        html`<${ActionButton}
          className="primary"
          run=${() => act("Could not retry", () => trainings.retry(id))}>
          Go on
        <//>`
      }
      ${
        training.status === "failed" &&
        lines.some(
          (line) =>
            line.name === "procedure" &&
            line.state === "failed" &&
            line.stage?.code !== "no_instructions",
        ) &&
        html`<${ActionButton}
          className="quiet"
          run=${() => act("Could not retry", () => trainings.retry(id, true))}>
          Without a model
        <//>`
      }
      ${
        isOver(training.status) &&
        html`<${ActionButton} className="danger" run=${() => remove(training.title)}>
          Delete
        <//>`
      }
    </div>
    ${found.isStale && html`<${Stale} error=${found.error} retry=${found.refresh} />`}
    ${
      training.status === "failed" &&
      training.reason &&
      html`<p class="notice failed wrap" role="alert">
        <span class="strong">It failed</span>
        ${training.reason}
      </p>`
    }
    <section class="card" aria-labelledby="h-stages">
      <h2 id="h-stages">Stages</h2>
      <ol class="stack">
        ${lines.map(
          (line) => html`<li key=${line.name} data-stage=${line.name} data-state=${line.state}>
            <div class="bar">
              <span class="strong">${line.title}</span>
              <${Tag} tone=${MARKS[line.state].tone}>${MARKS[line.state].word}<//>
              ${line.words && html`<span class="muted small wrap">${line.words}</span>`}
            </div>
            ${line.state === "running" && html`<${Bar} label=${line.title} done=${line.done} />`}
            ${line.error && html`<p class="muted small wrap">Is tried again: ${line.error}</p>`}
            ${line.why && html`<p class="muted small wrap">${line.why}</p>`}
          </li>`,
        )}
      </ol>
      <p class="hidden" role="status">
        ${lines
          .filter((line) => line.state === "running")
          .map((line) => `Under way: ${line.title}`)
          .join(". ")}
      </p>
    </section>
    <div
      style=${{ display: "grid", gridTemplateColumns: "repeat(auto-fit, minmax(min(26rem, 100%), 1fr))", gap: ".75rem", alignItems: "start" }}>
      ${
        isThere &&
        html`<${Video}
          handle=${player}
          id=${id}
          title=${training.title}
          said=${transcript.value?.segments ?? NOTHING} />`
      }
      ${
        training.version &&
        html`<${ProcedureCard}
          id=${id}
          latest=${training.version}
          stills=${training.stills}
          jump=${jump}
          now=${() => player.current?.now() ?? 0}
          onSaved=${found.refresh} />`
      }
    </div>
    <${JobMonitor}
      workspaceId=${workspace.id}
      trainingId=${id}
      filter=${filter}
      onFilter=${(/** @type {Filter} */ changes) => setFilter({ ...filter, ...changes })} />
    ${
      transcript.value &&
      html`<section class="card stack" aria-labelledby="h-transcript">
        <div class="bar">
          <h2 id="h-transcript">Transcript${transcript.value.complete ? "" : " so far"}</h2>
          <span class="muted small wrap">
            heard by ${transcript.value.engine}
            ${transcript.value.offline ? "; it mishears: read it beside the video" : ""}
          </span>
        </div>
        <ol
          class="stack"
          style=${{ maxHeight: "24rem", overflow: "auto" }}
          tabindex="0"
          aria-label="Transcript">
          ${transcript.value.segments.map(
            (said, index) => html`<li
              key=${index}
              class="bar"
              style=${{ flexWrap: "nowrap", alignItems: "baseline" }}>
              <button
                type="button"
                class="quiet num"
                onClick=${() => jump(said.start)}
                aria-label=${`Play from ${clock(said.start)}`}>
                ${clock(said.start)}
              </button>
              <span class="wrap">${said.text}</span>
            </li>`,
          )}
        </ol>
      </section>`
    }
    ${
      !transcript.value &&
      transcript.error &&
      html`<${Failed}
        error=${transcript.error}
        retry=${transcript.refresh}
        what="The transcript could not be read" />`
    }
  </article>`;
}
