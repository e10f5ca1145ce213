// Page of trainings, with the videos of a workspace, the running uploads, and a form for a new
// video.

import {
  column,
  Empty,
  Freshness,
  heading,
  html,
  liveList,
  pageHead,
  Sentence,
  Tag,
  useLivePages,
  useState,
  When,
} from "../../app.js";
import { Bar } from "./bar.js";
import { aboutOf, isOver, stateOf, STATES, trainings } from "./data.js";
import { UploadDialog } from "./upload-dialog.js";
import { Uploading } from "./uploading.js";

export const title = () => "Training";

/** Column with the progress of trainings that have not ended yet. */
const PROGRESS = column("Progress", "bare", (one) =>
  isOver(one.status)
    ? null
    : html`<${Bar}
        label=${`Progress of ${one.title}`}
        done=${one.progress_percentage ?? 0}
        status=${STATES[one.status].tone} />`,
);

export default function Trainings({ workspace, user }) {
  const found = useLivePages(workspace.id, trainings.list, {
    liveOf: (pages) =>
      pages
        .flatMap((page) => page.trainings)
        .filter((one) => !isOver(one.status))
        .map((one) => `training:${one.id}`),
  });
  const [isAdding, setIsAdding] = useState(false);
  const whose = `${user.id} ${workspace.id}`;
  const shown = found.value?.flatMap((page) => page.trainings) ?? [];
  return html`<div class="page">
    ${pageHead(
      "Training",
      null,
      html`<${Freshness} value=${found.freshness} />
        <a class="button" href="/trainings/monitor">Jobs</a>
        <button type="button" class="primary" onClick=${() => setIsAdding(true)}>New video</button>`,
    )}
    <${Uploading} whose=${whose} />
    ${liveList(
      {
        of: found,
        what: "videos",
        label: "Videos",
        rows: shown,
        key: (one) => one.id,
        empty: html`<${Empty} title="No videos yet">
          <p>
            Upload a video of someone at work. It gets a transcript and a procedure, each step with
            its place in the video.
          </p>
          <button type="button" onClick=${() => setIsAdding(true)}>Upload the first one</button>
        <//>`,
      },
      [
        heading(
          "Title",
          "wrap",
          (one) => html`
            <a href=${`/trainings/${one.id}`}>${one.title}</a>
            <span class="under"><${Sentence} text=${aboutOf(one)} /></span>
          `,
        ),
        column(
          "State",
          "state bare",
          (one) => html`<${Tag} tone=${stateOf(one).tone}>${stateOf(one).word}<//>`,
        ),
        ...(shown.some(({ status }) => !isOver(status)) ? [PROGRESS] : []),
        column("Uploaded", "bare muted", (one) => html`<${When} at=${one.created_at} />`),
      ],
    )}
    ${
      isAdding &&
      html`<${UploadDialog}
        workspaceId=${workspace.id}
        whose=${whose}
        onClose=${() => setIsAdding(false)} />`
    }
  </div>`;
}
