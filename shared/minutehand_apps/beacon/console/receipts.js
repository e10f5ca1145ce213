// A job's receipts: their chain, the bundle to pass on, and a check of what this page was given.

import { useState, html } from "../../lib/ui.js";
import { shortId, utc } from "../../lib/format.js";
import { Tag } from "../../parts/badge.js";
import { download } from "../../parts/copy.js";
import { ActionButton } from "../../parts/dialog.js";
import { column, heading, table } from "../../parts/table.js";
import { notifyFailure } from "../../parts/toasts.js";
import { Unread } from "../../parts/unread.js";
import { beacon } from "./data.js";

/** @import { Read } from "../../lib/store.js" */
/** @import { Bundle, JobState, KeySet, Receipt, Verification } from "./routes.js" */

const VERDICTS = {
  passed: "Verified",
  failed: "Not what was signed",
  not_made: "Not wholly checked",
};
const MARKS = { passed: ["✓", "completed"], failed: ["✗", "failed"], not_made: ["–", "waiting"] };

/** @param {{job: JobState, bundle: Read<Bundle | null>}} props */
export function Receipts({ job, bundle }) {
  const [report, setReport] = useState(/** @type {Verification | null} */ (null));
  if (!bundle.value)
    return html`<section class="card">
      <h2>Receipts</h2>
      <${Unread} of=${bundle} what="the receipts" />
    </section>`;
  const save = (/** @type {string} */ name, /** @type {Bundle | KeySet | Receipt} */ value) =>
    download(name, `${JSON.stringify(value, null, 1)}\n`, "application/json");
  const check = async () => {
    try {
      setReport(await beacon.verify(/** @type {Bundle} */ (bundle.value)));
    } catch (error) {
      notifyFailure("Could not verify", error);
    }
  };
  const keys = async () => {
    try {
      save("beacon-keys.json", await beacon.keys());
    } catch (error) {
      notifyFailure("The keys could not be read", error);
    }
  };
  const rows = /** @type {Receipt[]} */ (bundle.value.receipts);
  return html`<section class="card stack" aria-labelledby="h-receipts">
    <div class="bar">
      <h2 id="h-receipts">Receipts</h2>
      <span class="spacer"></span>
      <${ActionButton} className="primary" run=${check}>Verify<//>
      <button
        type="button"
        onClick=${() => save(`beacon-${shortId(job.id)}.json`, /** @type {Bundle} */ (bundle.value))}>
        Download the bundle
      </button>
      <${ActionButton} className="quiet" run=${keys}>Public keys<//>
    </div>
    ${table({ label: "Receipts", rows, key: (one) => one.number, cards: true }, [
      heading("Number", "num", (one) => one.number),
      column("Of", (one) => `${one.region} · ${one.model}`),
      column("Signed", (one) => utc(one.issued_at)),
      column(
        "Follows",
        (one) => html`<code>
          ${one.hashes.previous ? one.hashes.previous.slice(7, 19) : "nothing: the first"}
        </code>`,
      ),
      column(
        "Receipt",
        (one) => html`<button
          type="button"
          class="quiet"
          onClick=${() => save(`receipt-${one.number}.json`, one)}>
          Download<span class="hidden"> receipt ${one.number}</span>
        </button>`,
      ),
    ])}
    <div aria-live="polite">${report && html`<${Report} report=${report} />`}</div>
    <p class="muted small">
      Anyone can verify the bundle without this server: <code>
        minutehand beacon verify bundle.json --keys keys.json
      </code>
    </p>
  </section>`;
}

/** @param {{report: Verification}} props */
function Report({ report }) {
  const failed = report.checks.filter(({ state }) => state === "failed");
  const skipped = report.checks.filter(({ state }) => state === "not_made").length;
  return html`<div class="stack" data-verdict=${report.verdict}>
    <p>
      <${Tag} tone=${MARKS[report.verdict][1]}>${VERDICTS[report.verdict]}<//> ${report.checks.length - failed.length - skipped} checks passed${failed.length > 0 && `, ${failed.length} failed`}
      ${skipped > 0 && `, ${skipped} could not be made`}.
    </p>
    <details class="more" open=${report.verdict !== "passed"}>
      <summary>Every check</summary>
      <ul class="history" tabindex="0" aria-label="Every check">
        ${report.checks.map(
          ({ subject, check, state, detail }) => html`<li
            key=${subject + check}
            data-tone=${MARKS[state][1]}>
            <span aria-hidden="true">${MARKS[state][0]} </span>
            <span class="hidden">${state === "not_made" ? "not made" : state}: </span>
            ${subject}: ${check} <span class="muted wrap">${detail}</span>
          </li>`,
        )}
      </ul>
    </details>
  </div>`;
}
