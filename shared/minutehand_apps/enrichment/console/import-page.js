// One import: how far it is, what it did, and the rows it refused as a file.

import { supabase } from "../../api.js";
import { bytes, counted, number, percentage } from "../../lib/format.js";
import { makeUseJobStatus } from "../../lib/jobs.js";
import { useRead } from "../../lib/store.js";
import { hooks, html, useEffect } from "../../lib/ui.js";
import { Freshness, StateBadge } from "../../parts/badge.js";
import { download } from "../../parts/copy.js";
import { ActionButton } from "../../parts/dialog.js";
import { JobProgress } from "../../parts/job-progress.js";
import { column, heading, table } from "../../parts/table.js";
import { notifyFailure } from "../../parts/toasts.js";
import { Unread } from "../../parts/unread.js";
import NotFound from "../../views/not-found.js";
import { imports } from "./data.js";

const useJobStatus = makeUseJobStatus(hooks, supabase);

export const title = () => "Import";

/** @param {{id: string}} props */
export default function ImportPage({ id }) {
  const found = useRead((signal) => imports.get(id, signal), [id]);
  const watch = useJobStatus({ jobId: found.value?.job_id });
  useEffect(() => {
    if (watch.job) found.refresh();
  }, [watch.status, percentage(watch.progress)]);
  if (found.error?.status === 404 || found.error?.status === 422)
    return html`<${NotFound} what="import" />`;
  if (!found.value)
    return html`<div class="page">
      <h1 tabindex="-1">Import</h1>
      <${Unread} of=${found} what="the import" />
    </div>`;
  const one = found.value;
  const getErrors = async () => {
    try {
      download(`${one.file_name.replace(/\.csv$/i, "")}-errors.csv`, await imports.errors(id));
    } catch (error) {
      notifyFailure("The refused rows could not be downloaded", error);
    }
  };
  /** @type {(name: string, value: number, note?: string) => import("preact").VNode} */
  const figure = (name, value, note) =>
    html`<div class="card figure">
      <p class="figure-name muted">${name}</p>
      <p class="figure-value num" data-figure=${name}>${number(value)}</p>
      <p class="muted small">${note ?? "\u00a0"}</p>
    </div>`;
  return html`<article class="page">
    <header class="page-head">
      <div>
        <p class="crumb"><a href="/accounts">Accounts</a> / Import</p>
        <h1 tabindex="-1">${one.file_name}</h1>
      </div>
      ${watch.job && html`<${StateBadge} status=${watch.job.status} />`}
      <span class="spacer"></span>
      ${watch.job && html`<${Freshness} value=${watch.freshness} />`}
      ${one.job_id && html`<a href=${`/jobs/${one.job_id}`}>Its job</a>`}
    </header>
    ${watch.job && html`<${JobProgress} job=${watch.job} />`}
    ${
      watch.error &&
      watch.status !== "completed" &&
      html`<p class="problem" role="alert">
        ${watch.error}
      </p>`
    }
    <section class="grid-cards" aria-label="Rows">
      ${figure("Rows read", one.rows_read, `${bytes(one.bytes_read)} of ${bytes(one.total_bytes)}`)}
      ${figure("Created", one.rows_created)}
      ${figure("Updated", one.rows_updated)}
      ${figure("Refused", one.rows_failed)}
    </section>
    ${one.rows_failed > 0 && html`<${Refused} id=${id} count=${one.rows_failed} />`}
    <div class="bar">
      ${
        one.rows_failed > 0 &&
        html`<${ActionButton} run=${getErrors}>
          Download ${counted(one.rows_failed, "refused row")}
        <//>`
      }
      ${one.finished_at && html`<a href="/accounts">See the accounts</a>`}
    </div>
  </article>`;
}

/**
 * The first refused rows, where one sees at a glance what is wrong with the file.
 *
 * @param {{id: string, count: number}} props `count`: how many were refused.
 */
function Refused({ id, count }) {
  const rows = useRead((signal) => imports.firstErrors(id, signal), [id, Math.min(count, 20)]);
  return html`<section class="card" aria-labelledby="h-refused">
    <h2 id="h-refused">Refused rows</h2>
    ${
      !rows.value
        ? html`<${Unread} of=${rows} what="the refused rows" />`
        : html`
          ${table({ label: "Refused rows", rows: rows.value, key: (row) => row.row_number }, [
            heading("Row", "num", (row) => number(row.row_number)),
            column("Column", (row) => row.field ?? "–"),
            column("Problem", "wrap", (row) => row.problem),
            column(
              "As in the file",
              "wrap wide",
              (row) => html`<code class="clamp" title=${row.line}>${row.line}</code>`,
            ),
          ])}
          ${
            count > rows.value.length &&
            html`<p class="muted small">
              The first ${number(rows.value.length)} of ${number(count)}; the file has them all.
            </p>`
          }
        `
    }
  </section>`;
}
