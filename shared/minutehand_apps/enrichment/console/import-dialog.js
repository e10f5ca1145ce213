// Hands in a CSV file; the import itself is a job with a page of its own.

import { bytes, counted } from "../../lib/format.js";
import { useRead } from "../../lib/store.js";
import { html, useState } from "../../lib/ui.js";
import { DialogForm } from "../../parts/dialog-form.js";
import { When } from "../../parts/when.js";
import { imports } from "./data.js";

/** @import { CreatedImport } from "./routes.js" */

/** @param {{workspaceId: string, onClose: () => void, onStarted: (made: CreatedImport) => void}} props */
export function ImportDialog({ workspaceId, onClose, onStarted }) {
  const [file, setFile] = useState(/** @type {File | null} */ (null));
  const [enrich, setEnrich] = useState(false);
  const recent = useRead((signal) => imports.recent(workspaceId, signal), [workspaceId]);
  const submit = async () => {
    if (!file) return;
    const made = await imports.start(workspaceId, file, enrich);
    onClose();
    onStarted(made);
  };
  const earlier =
    recent.value &&
    recent.value.length > 0 &&
    html`<section aria-labelledby="h-recent">
      <h3 id="h-recent" class="small muted">Earlier imports</h3>
      <ul class="runs">
        ${recent.value.map(
          (one) => html`<li key=${one.id}>
            <a class="wrap" href=${`/accounts/import/${one.id}`} onClick=${onClose}>
              ${one.file_name}
            </a> <span
              class="muted small num">
              ${counted(one.rows_read, "row")}
              ${one.rows_failed > 0 && `, ${one.rows_failed} refused`}
              ${!one.finished_at && ", unfinished"} · <${When} at=${one.created_at} />
            </span>
          </li>`,
        )}
      </ul>
    </section>`;
  return html`<${DialogForm}
    title="Import accounts"
    action="Import"
    doing="Uploading…"
    run=${submit}
    disabled=${!file}
    below=${earlier}
    onClose=${onClose}>
    <p class="muted">
      A CSV file with a header. <code>domain</code> is needed; name, industry, employees, revenue, city, state and country are taken when there. Rows with a known domain update that account.
    </p>
    <label class="field">
      <span>File</span>
      <input
        type="file"
        accept=".csv,text/csv"
        required
        onChange=${(/** @type {Event & {target: HTMLInputElement & {files: FileList}}} */ event) => setFile(event.target.files[0] ?? null)} />
    </label>
    ${file && html`<p class="muted small">${file.name}, ${bytes(file.size)}</p>`}
    <label class="check">
      <input
        type="checkbox"
        checked=${enrich}
        onChange=${(/** @type {Event & {target: HTMLInputElement}} */ event) => setEnrich(event.target.checked)} /> Enrich the imported accounts
    </label>
  <//>`;
}
