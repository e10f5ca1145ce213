// One training: its jobs while they run, the video, and the procedure or the transcript beside it.

import { useFollowed } from "../../parts/live.js";
import { navigate } from "../../lib/router.js";
import { useRead } from "../../lib/store.js";
import { html, useEffect, useRef, useState } from "../../lib/ui.js";
import { Tag } from "../../parts/badge.js";
import { ActionButton } from "../../parts/dialog.js";
import { actionsOn, notify } from "../../parts/toasts.js";
import { Loading, Stale } from "../../parts/states-of-view.js";
import { When } from "../../parts/when.js";
import { clock, isOver, STATES, trainings } from "./data.js";
import { JobMonitor } from "./job-monitor.js";
import { Video } from "./video.js";
import { unreadPage } from "../../parts/not-found.js";

export const title = () => "Training";

export default function TrainingPage({ id, workspace }) {
  const [isGoing, setIsGoing] = useState(false);
  const act = actionsOn(() => setIsGoing(false));
  const go = () => {
    setIsGoing(true);
    return trainings.remove(id).then(() => navigate("/trainings"));
  };
  const remove = (named) =>
    act("Could not delete", go, `${named} is deleted`, {
      title: "Delete the training?",
      text: "The video, its transcript and its procedure are deleted permanently.",
      action: "Delete",
      danger: true,
    });
  if (isGoing) return html`<div class="page"><h1>Training</h1><${Loading} what="Deleting" /></div>`;
  return html`<${Training} id=${id} workspace=${workspace} remove=${remove} />`;
}

function Training({ id, workspace, remove }) {
  const [filter, setFilter] = useState({});
  const player = useRef(null);
  const found = useRead((signal) => trainings.read(id, signal), [id]);
  const training = found.value;
  const isLive = Boolean(training) && !isOver(training.status);
  useFollowed(found, [`session:training:${id}`], isLive);
  useNotice(training);
  const transcribed = training?.transcribed ?? 0;
  const transcript = useRead(
    async (signal) => (transcribed > 0 ? trainings.transcript(id, signal) : null),
    [id, transcribed, training?.status],
  );
  const unread = unreadPage("Training", found, "training");
  if (unread) return unread;
  const act = actionsOn(found.refresh);
  const cancel = () => act("Could not stop", () => trainings.cancel(id)); // what is finished stays
  const { word, tone } = STATES[training.status];
  const jump = (seconds) => player.current?.jump(seconds);
  const isReady = training.status === "completed"; // then what it brought comes before its jobs
  const jobs = html`<${JobMonitor}
    workspaceId=${workspace.id}
    trainingId=${id}
    filter=${filter}
    onFilter=${(changes) => setFilter({ ...filter, ...changes })} />`;
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
      <${Tag} tone=${tone}>${word}<//>
      <span class="spacer"></span>
      ${
        !isOver(training.status) &&
        html`<${ActionButton}
          className="danger"
          disabled=${training.status === "cancelling"}
          run=${cancel}>
          ${training.status === "cancelling" ? "Stopping…" : "Stop"}
        <//>`
      }
      ${
        (training.status === "failed" || training.status === "cancelled") &&
        html`<${ActionButton}
          className="primary"
          run=${() => act("Could not retry", () => trainings.retry(id))}>
          Retry
        <//>`
      }
      ${
        isOver(training.status) &&
        html`<${ActionButton} className="danger" run=${() => remove(training.title)}>Delete<//>`
      }
    </div>
    ${found.isStale && html`<${Stale} error=${found.error} retry=${found.refresh} />`}
    ${
      training.status === "failed" &&
      html`<p class="notice failed wrap" role="alert">
        <span class="strong">It failed</span>
        ${training.reason}
      </p>`
    }
    ${!isReady && jobs}
    <div class="ways">
      ${training.media && html`<${Video} handle=${player} id=${id} title=${training.title} />`}
      ${training.procedure && html`<${Procedure} stored=${training.procedure} jump=${jump} />`}
    </div>
    ${transcript.value && html`<${Transcript} of=${transcript.value} jump=${jump} />`}
    ${isReady && jobs}
  </article>`;
}

/** Say so when a training ends while it is shown. */
function useNotice(training) {
  const before = useRef(null);
  const status = training?.status;
  useEffect(() => {
    if (before.current && !isOver(before.current) && isOver(status))
      notify(`${training.title}: ${STATES[status].word.toLowerCase()}`);
    before.current = status;
  }, [status]);
}

const LINE = { display: "flex", gap: "0.6rem", alignItems: "start" };
const Play = ({ seconds, jump }) =>
  html`<button
    type="button"
    class="quiet num"
    onClick=${() => jump(seconds)}
    aria-label=${`Play from ${clock(seconds)}`}>
    ${clock(seconds)}
  </button>`;

function Procedure({ stored: { procedure, author }, jump }) {
  return html`<section class="card stack" aria-labelledby="h-procedure">
    <h2 id="h-procedure">Procedure</h2>
    ${!procedure && html`<p class="wrap">There is none: ${author}.</p>`}
    ${
      procedure &&
      html`
        <p class="muted small wrap">By ${author}</p>
        <p class="wrap">${procedure.purpose}</p>
        <p class="wrap">Materials: ${procedure.materials?.join("; ") || "none named"}</p>
        <p class="wrap">Warnings: ${procedure.warnings?.join("; ") || "none named"}</p>
        <ol class="stack">
          ${procedure.steps.map(
            (step, index) => html`<li key=${index} class="wrap">
              <${Play} seconds=${step.at_seconds} jump=${jump} />
              <span class="strong"> ${step.title}</span>
              ${step.detail && html`<div class="muted">${step.detail}</div>`}
            </li>`,
          )}
        </ol>
      `
    }
  </section>`;
}

function Transcript({ of, jump }) {
  return html`<section class="card stack" aria-labelledby="h-transcript">
    <div class="bar">
      <h2 id="h-transcript">Transcript${of.complete ? "" : " so far"}</h2>
      <span class="muted small wrap">
        transcribed by ${of.engine}
        ${of.offline ? "; it mishears: read it beside the video" : ""}
        ${of.missing_seconds ? `; the file lacks its last ${Math.round(of.missing_seconds)} s` : ""}
      </span>
    </div>
    <ol
      class="stack"
      style=${{ maxHeight: "24rem", overflow: "auto" }}
      tabindex="0"
      aria-label="Transcript">
      ${of.segments.map(
        (said, index) => html`<li key=${index} style=${LINE}>
          <${Play} seconds=${said.start} jump=${jump} />
          <span class="wrap" style=${{ alignSelf: "center" }}>${said.text}</span>
        </li>`,
      )}
    </ol>
  </section>`;
}
