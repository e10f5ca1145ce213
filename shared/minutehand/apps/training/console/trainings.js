// Training: the videos of a workspace, the uploads under way, and a form for another.

import { useLivePages } from "../../lib/live.js";
import { usePolling } from "../../lib/store.js";
import { html, useEffect, useState } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { Empty, Failed, Loading, Stale } from "../../parts/states-of-view.js";
import { When } from "../../parts/when.js";
import { Bar } from "./bar.js";
import { isOver, STATES, trainings } from "./data.js";
import { UploadDialog } from "./upload-dialog.js";
import { recall } from "./upload.js";
import { started, Uploading } from "./uploading.js";

/** @import { Session, Workspace } from "../../api.js" */

export const title = () => "Training";

/** @param {{workspace: Workspace, user: NonNullable<Session["user"]>}} props */
export default function Trainings({ workspace, user }) {
  const found = useLivePages(workspace.id, trainings.list);
  const [isAdding, setIsAdding] = useState(false);
  useEffect(() => {
    recall({ workspaceId: workspace.id, owner: user.id, onStarted: started });
  }, [workspace.id, user.id]);
  const shown = found.value?.flatMap((page) => page.trainings) ?? [];
  // percentages are not pushed to watchers of a workspace
  usePolling(found, shown.some((one) => !isOver(one.status)) ? 2_000 : null);
  return html`<div class="page">
    <header class="page-head"><h1 tabindex="-1">Training</h1><span class="spacer"></span><${Freshness} value=${found.freshness} /><a href="/trainings/monitor">Job monitor</a>
      <button type="button" class="primary" onClick=${() => setIsAdding(true)}>New video</button></header>
    <${Uploading} workspaceId=${workspace.id} owner=${user.id} />
    <section class="card" aria-labelledby="h-trainings"><h2 id="h-trainings">Videos</h2>
      ${found.isStale && html`<${Stale} error=${found.error} retry=${found.refresh} />`}
      ${!found.value && found.error && html`<${Failed} error=${found.error} retry=${found.refresh} what="The videos could not be read" />`}
      ${!found.value && !found.error && html`<${Loading} what="Reading the videos" />`}
      ${
        found.value &&
        (shown.length === 0
          ? html`<${Empty} title="No videos yet">Upload a video of someone at work: its words are written down, and a procedure is made of them, step by step, each with its place in the video.<//>`
          : html`<div class="scroll-x" tabindex="0" role="group" aria-label="Videos"><table class="table"><thead><tr><th scope="col">Title</th><th scope="col">State</th><th scope="col">Progress</th><th scope="col">Uploaded</th></tr></thead>
          <tbody>${shown.map((one) => html`<tr key=${one.id}><th scope="row" class="wrap"><a href=${`/trainings/${one.id}`}>${one.title}</a>${one.reason && html`<span class="muted small wrap"> ${one.reason}</span>`}</th><td><${Tag} tone=${STATES[one.status].tone}>${STATES[one.status].word}<//></td><td style=${{ minWidth: "8rem" }}><${Bar} label=${`Progress of ${one.title}`} done=${one.progress_percentage ?? 0} tone=${STATES[one.status].tone} /></td><td><${When} at=${one.created_at} /></td></tr>`)}</tbody></table></div>
          ${found.more && html`<div class="actions start"><button type="button" class="quiet" onClick=${found.more}>Older videos</button></div>`}`)
      }
    </section>
    ${isAdding && html`<${UploadDialog} workspaceId=${workspace.id} owner=${user.id} onClose=${() => setIsAdding(false)} />`}
  </div>`;
}
