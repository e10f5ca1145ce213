// Page of one training, with its running jobs, its video, and its procedure or transcript.

import {
  ActionButton,
  area,
  classes,
  createAction,
  DialogForm,
  field,
  html,
  JobProgress,
  Loading,
  loadStyles,
  navigate,
  objectHead,
  placeholderPage,
  quietButton,
  ShareButton,
  stale,
  table,
  Tag,
  useFetch,
  useRef,
  useState,
  useTopicRefresh,
  When,
} from "../../app.js";
import { clock, isOver, nowOf, stateOf, trainings } from "./data.js";
import { attributesOf, columnsOf } from "./job-monitor.js";
import { Picture, printProcedure, useVideo, Video } from "./video.js";

loadStyles("/apps/training/training.css");

export const title = () => "Training";

export default function TrainingPage({ id }) {
  const [isGoing, setIsGoing] = useState(false);
  const act = createAction(() => setIsGoing(false));
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
  return html`<${Training} id=${id} remove=${remove} />`;
}

function Training({ id, remove }) {
  const player = useRef(null);
  const [at, setAt] = useState(null); // current time in the video
  const found = useFetch((signal) => trainings.read(id, signal), [id]);
  const training = found.value;
  const isLive = Boolean(training) && !isOver(training.status);
  useTopicRefresh(found, [`session:training:${id}`], isLive);
  const video = useVideo(training?.media ? id : null);
  const transcribed = training?.transcribed ?? 0;
  const transcript = useFetch(
    async (signal) => (transcribed > 0 ? trainings.transcript(id, signal) : null),
    [id, transcribed, training?.status],
  );
  const unread = placeholderPage("Training", found, "training");
  if (unread) return unread;
  const act = createAction(found.refresh);
  const cancel = () => act("Could not stop", () => trainings.cancel(id)); // keeps finished results
  const { word, tone } = stateOf(training);
  const jump = (seconds) => player.current?.jump(seconds);
  const { share_id: shareId } = training;
  const isWritten = Boolean(training.procedure?.procedure);
  return html`<article class="page">
    ${objectHead(
      html`<a href="/trainings">Training</a> / uploaded <${When} at=${training.created_at} />`,
      training.title,
      html`<${Tag} tone=${tone}>${word}<//>`,
      html`<div class="actions">
      ${
        training.procedure?.procedure &&
        html`<${ShareButton}
          what="this procedure"
          address=${shareId && `/api/trainings/shared/${shareId}`}
          share=${(isShared) => trainings.share(id, isShared)}
          refresh=${found.refresh} />`
      }
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
      </div>`,
    )}
    ${stale(found)}
    ${
      training.status === "failed" &&
      html`<p class="notice failed wrap" role="alert">
        <span class="strong">${training.reason ?? "The training failed."}</span>
        <span>Retry keeps the finished results. If the file is the cause, upload another.</span>
      </p>`
    }
    ${
      !isOver(training.status) &&
      html`<section class="card" aria-label="Progress">
        <${JobProgress}
          job=${{
            status: "processing",
            progress: { percentage: training.progress_percentage, message: nowOf(training) },
          }} />
      </section>`
    }
    <div class=${classes("training", isWritten && "written")}>
      ${
        training.media &&
        html`<${Video} handle=${player} of=${video} title=${training.title} onTime=${setAt} />`
      }
      ${
        training.procedure &&
        html`<${Procedure}
          stored=${training.procedure}
          jump=${jump}
          address=${training.media?.video ? video.value?.url : null}
          edit=${(step, text) => trainings.editStep(id, step, text).then(found.refresh)} />`
      }
      ${transcript.value && html`<${Transcript} of=${transcript.value} jump=${jump} at=${at} />`}
    </div>
    <${Details} training=${training} refresh=${found.refresh} />
  </article>`;
}

/** Table of the jobs of a training. */
const Details = ({ training: { title: name, jobs }, refresh }) =>
  html`<details class="more">
    <summary>Details</summary>
    <div class="card list">
      ${table(
        {
          label: "Jobs",
          rows: jobs.map((job) => ({ ...job, title: name })),
          key: (job) => job.id,
          cards: true,
          attributes: attributesOf,
        },
        columnsOf(refresh, true),
      )}
    </div>
  </details>`;

const Play = ({ seconds, jump }) =>
  html`<button
    type="button"
    class="play num"
    onClick=${() => jump(seconds)}
    aria-label=${`Play from ${clock(seconds)}`}>
    ${clock(seconds)}
  </button>`;

const named = (what, lines = []) =>
  lines.length > 0 &&
  html`<div>
    <h3>${what}</h3>
    <ul class="bullets" dir="auto">${lines.map((line) => html`<li class="wrap">${line}</li>`)}</ul>
  </div>`;

const NO_MODEL =
  "no language model is connected. Upload it again after an administrator has connected one";

function StepForm({ step, edit, onClose }) {
  const [text, setText] = useState({ title: step.title, detail: step.detail });
  const set = (name) => (value) => setText((now) => ({ ...now, [name]: value }));
  const run = () => edit(text).then(() => onClose());
  return html`<${DialogForm} title="Edit the step" action="Save" run=${run} onClose=${onClose}>
    ${field("Step", text.title, set("title"), { required: true, maxlength: 500, dir: "auto" })}
    ${area("Detail", text.detail, set("detail"), { rows: 5, maxlength: 2000, dir: "auto" })}
  <//>`;
}

function Procedure({ stored: { procedure, author, offline }, jump, address, edit }) {
  const [edited, setEdited] = useState(null); // index of the step that a person edits
  return html`<section class="card stack procedure-card" aria-labelledby="h-procedure">
    <div class="bar">
      <h2 id="h-procedure">Procedure</h2>
      <span class="spacer"></span>
      ${procedure && quietButton("Print", printProcedure)}
    </div>
    ${
      edited !== null &&
      html`<${StepForm}
        step=${procedure.steps[edited]}
        edit=${(text) => edit(edited + 1, text)}
        onClose=${() => setEdited(null)} />`
    }
    ${!procedure && html`<p class="muted wrap">There is no procedure, because ${offline ? NO_MODEL : author}.</p>`}
    ${
      procedure &&
      html`
        <p class="strong wrap">${procedure.title}</p>
        ${procedure.purpose && html`<p class="wrap">${procedure.purpose}</p>`}
        <div class="halves">
          ${named("You need", procedure.materials)} ${named("Take care", procedure.warnings)}
        </div>
        <ol class="procedure" dir="auto">
          ${procedure.steps.map(
            (step, index) => html`<li key=${index} class="wrap">
              ${
                address &&
                html`<${Picture}
                  address=${address}
                  seconds=${step.at_seconds}
                  jump=${jump}
                  title=${step.title} />`
              }
              <div>
                <p class="strong">${index + 1}. ${step.title}</p>
                ${step.detail && html`<p>${step.detail}</p>`}
                <div class="bar">
                  <${Play} seconds=${step.at_seconds} jump=${jump} />
                  ${quietButton("Edit", () => setEdited(index), { "aria-label": `Edit: ${step.title}` })}
                </div>
              </div>
            </li>`,
          )}
        </ol>
        <p class="muted small wrap">Written by a language model from the transcript.</p>
      `
    }
  </section>`;
}

function Transcript({ of, jump, at }) {
  const isNow = ({ start, end }) => at !== null && start <= at && at < end;
  return html`<section class="card stack" aria-labelledby="h-transcript">
    <div>
      <h2 id="h-transcript">Transcript${of.complete ? "" : " so far"}</h2>
      <p class="muted small wrap">
        ${
          of.offline
            ? "Automatic transcript. It may contain mistakes."
            : "Transcribed by speech recognition."
        }
        ${of.missing_seconds ? ` The file lacks its last ${Math.round(of.missing_seconds)} s.` : ""}
      </p>
    </div>
    <ol class="transcript" dir="auto" tabindex="0" aria-label="Transcript">
      ${of.segments.map(
        (
          segment,
          index,
        ) => html`<li key=${index} aria-current=${isNow(segment) ? "true" : undefined}>
          <${Play} seconds=${segment.start} jump=${jump} />
          <span class="wrap">${segment.text}</span>
        </li>`,
      )}
    </ol>
  </section>`;
}
