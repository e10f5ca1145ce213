// Hands in a CSV file; the import itself is a job with a page of its own.

import { bytes, counted } from "../../lib/format.js";
import { useRead } from "../../lib/store.js";
import { html, useState } from "../../lib/ui.js";
import { Dialog } from "../../parts/dialog.js";
import { When } from "../../parts/when.js";
import { imports } from "./data.js";

/** @import { CreatedImport } from "./routes.js" */

/** @param {{workspaceId: string, onClose: () => void, onStarted: (made: CreatedImport) => void}} props */
export function ImportDialog({ workspaceId, onClose, onStarted }) {
  const [file, setFile] = useState(/** @type {File | null} */ (null));
  const [enrich, setEnrich] = useState(false);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState(/** @type {string | null} */ (null));
  const recent = useRead((signal) => imports.recent(workspaceId, signal), [workspaceId]);
  const submit = async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    if (!file) return;
    setBusy(true);
    setProblem(null);
    try {
      const made = await imports.start(workspaceId, file, enrich);
      onClose();
      onStarted(made);
    } catch (error) {
      setProblem(error.message);
      setBusy(false);
    }
  };
  return html`<${Dialog} title="Import accounts" onClose=${onClose}>
    <form class="stack" onSubmit=${submit}>
      <p class="muted">
        A CSV file with a header. <code>name</code> or <code>domain</code> is needed; industry, employees, city, state and country are taken when there. Rows with a known domain update that account.
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
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <div class="actions">
        <button type="button" onClick=${onClose}>Close</button>
        <button type="submit" class="primary" disabled=${busy || !file}>
          ${busy ? "Uploading…" : "Import"}
        </button>
      </div>
    </form>
    ${
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
      </section>`
    }
  <//>`;
}
