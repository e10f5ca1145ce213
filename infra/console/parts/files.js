// What a job made to be kept: the files of `ctx.artefact`.

import { apiAddress, rpc } from "../api.js";
import { bytes } from "../lib/format.js";
import { useRead } from "../lib/store.js";
import { html } from "../lib/ui.js";
import { Stale } from "./states-of-view.js";
import { When } from "./when.js";

/** @import { Artefact, WatchedJob } from "../lib/jobs/types.js" */

/** @param {{job: WatchedJob}} props */
export function Files({ job }) {
  const files = useRead(
    (signal) => rpc("job_artefacts", { p_job_id: job.id }, signal),
    [job.id, job.status],
  );
  /** @type {Artefact[]} */
  const list = files.value?.artefacts ?? [];
  if (list.length === 0 && !files.isStale) return null;
  return html`<section class="card" aria-labelledby="h-files">
    <h2 id="h-files">Files</h2>
    ${files.isStale && html`<${Stale} error=${files.error} retry=${files.refresh} />`}
    ${
      list.length > 0 &&
      html`<ul class="actions-list">
        ${list.map(
          (file) => html`<li key=${file.name}>
            <a href=${apiAddress(file.url)} target="_blank" rel="noopener">${file.name}</a>
            <span class="muted small">
              ${" "}
              ${file.media_type}, <span class="num">${bytes(file.size_bytes)}</span>, expires
              ${" "}
              <${When} at=${file.expires_at} />
            </span>
          </li>`,
        )}
      </ul>`
    }
  </section>`;
}
