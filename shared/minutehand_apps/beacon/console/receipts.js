// A job's receipts: what was signed, and the bundle and key to verify it by anywhere.

import { html } from "../../lib/ui.js";
import { shortId, utc } from "../../lib/format.js";
import { download } from "../../parts/copy.js";
import { ActionButton } from "../../parts/dialog.js";
import { column, heading, table } from "../../parts/table.js";
import { notifyFailure } from "../../parts/toasts.js";
import { Unread } from "../../parts/unread.js";
import { beacon } from "./data.js";

/** @import { Read } from "../../lib/store.js" */
/** @import { Bundle, JobState, Receipt } from "./routes.js" */

/** @param {{job: JobState, bundle: Read<Bundle | null>}} props */
export function Receipts({ job, bundle }) {
  const save = (/** @type {string} */ name, /** @type {unknown} */ value) =>
    download(name, `${JSON.stringify(value, null, 1)}\n`, "application/json");
  const keys = async () => {
    try {
      save("beacon-keys.json", await beacon.keys());
    } catch (error) {
      notifyFailure("The keys could not be read", error);
    }
  };
  const rows = /** @type {Receipt[]} */ (bundle.value?.receipts ?? []);
  return html`<section class="card stack" aria-labelledby="h-receipts">
    <div class="bar">
      <h2 id="h-receipts">Receipts</h2>
      <span class="spacer"></span>
      <button
        type="button"
        disabled=${!bundle.value}
        onClick=${() => save(`beacon-${shortId(job.id)}.json`, bundle.value)}>
        Download the bundle
      </button>
      <${ActionButton} className="quiet" run=${keys}>Public key<//>
    </div>
    ${
      bundle.value
        ? table({ label: "Receipts", rows, key: (one) => one.id, cards: true }, [
            heading("Of", (one) => `${one.region} · ${one.model}`),
            column("Provider", (one) => one.provider),
            column("Signed", (one) => utc(one.issued_at)),
            column("Output", (one) => html`<code>${one.hashes.output?.slice(7, 19)}</code>`),
          ])
        : html`<${Unread} of=${bundle} what="the receipts" />`
    }
    <p class="muted small">
      Anyone can verify the bundle without this server: <code>
        minutehand beacon verify bundle.json --keys beacon-keys.json
      </code>
    </p>
  </section>`;
}
