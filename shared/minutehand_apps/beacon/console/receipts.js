// A job's receipts: the bundle and the key to verify it by anywhere.

import { html } from "../../lib/ui.js";
import { shortId } from "../../lib/format.js";
import { download } from "../../parts/copy.js";
import { ActionButton } from "../../parts/dialog.js";
import { act } from "../../parts/toasts.js";
import { beacon } from "./data.js";

export function Receipts({ id }) {
  const save = (name, read) =>
    act(`${name} could not be read`, async () =>
      download(name, `${JSON.stringify(await read(), null, 1)}\n`, "application/json"),
    );
  const bundle = () => save(`beacon-${shortId(id)}.json`, () => beacon.bundle(id));
  const keys = () => save("beacon-keys.json", beacon.keys);
  return html`<section class="card stack" aria-labelledby="h-receipts">
    <div class="bar">
      <h2 id="h-receipts">Receipts</h2>
      <span class="spacer"></span>
      <${ActionButton} run=${bundle}>Download the bundle<//>
      <${ActionButton} className="quiet" run=${keys}>Public key<//>
    </div>
    <p class="muted small">
      Anyone can verify the bundle without this server: <code>
        minutehand beacon verify bundle.json --keys beacon-keys.json
      </code>
    </p>
  </section>`;
}
