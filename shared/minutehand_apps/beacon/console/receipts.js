// Downloads of the receipts of a job, so that a person can verify them elsewhere, and the page of
// one receipt.

import {
  act,
  ActionButton,
  copy,
  download,
  fact,
  html,
  JsonView,
  NotFound,
  objectHead,
  placeholderPage,
  shortId,
  useFetch,
  When,
} from "../../app.js";
import { beacon, responsesOf } from "./data.js";

export const title = () => "Receipt";

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
      Each receipt is signed. Anyone can verify the bundle offline: <code>
        minutehand beacon verify bundle.json --keys beacon-keys.json
      </code>
    </p>
  </section>`;
}

/** The page of one receipt. */
export default function ReceiptPage({ id, receipt }) {
  const read = useFetch(() => beacon.bundle(id), [id]);
  const unread = placeholderPage("Receipt", read, "receipt");
  if (unread) return unread;
  const one = read.value.receipts.find((each) => each.id === receipt);
  if (!one) return html`<${NotFound} what="receipt" />`;
  const name = `receipt-${one.region}-${shortId(one.id)}.json`;
  const save = () => download(name, `${JSON.stringify(one, null, 1)}\n`, "application/json");
  return html`<article class="page narrow">
    ${objectHead(
      html`<a href="/benchmarks">Benchmarks</a> / <a href=${`/benchmarks/${id}`}>
            ${one.jobspec_id}
          </a>`,
      `Receipt of ${one.region}`,
      null,
      html`<button type="button" onClick=${() => copy(location.href, "Copied the link")}>
        Copy link
      </button>
      <button type="button" onClick=${save}>Download</button>`,
    )}
    <section class="card" aria-label="Signature">
      <dl class="facts">
        ${fact("Answered by", `${one.provider} · ${one.model}`)}
        ${fact("Signed", html`<${When} at=${one.issued_at} />`)}
        ${fact("Key", html`<code class="wrap">${one.key_id}</code>`)}
      </dl>
    </section>
    <section class="card" aria-label="Answers">
      <dl class="stack">
        ${responsesOf(one.output).map(
          (each) => html`<div key=${each.question_id}>
            <dt class="strong wrap">${each.question}</dt>
            <dd class="wrap">${each.response}</dd>
          </div>`,
        )}
      </dl>
    </section>
    <details class="card more">
      <summary>Signed JSON</summary>
      <${JsonView} value=${one} label="Receipt" />
    </details>
  </article>`;
}
