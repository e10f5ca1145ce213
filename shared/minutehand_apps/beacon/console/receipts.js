// A job's receipts: verified here, or taken along and verified anywhere; and the page of one.

import { shortId } from "../../lib/format.js";
import { useRead } from "../../lib/store.js";
import { html, useState } from "../../lib/ui.js";
import { Tag } from "../../parts/badge.js";
import { copy, download, JsonView } from "../../parts/copy.js";
import { ActionButton } from "../../parts/dialog.js";
import NotFound, { unreadPage } from "../../parts/not-found.js";
import { fact } from "../../parts/table.js";
import { act } from "../../parts/toasts.js";
import { When } from "../../parts/when.js";
import { beacon, responsesOf } from "./data.js";
import { verify } from "./verify.js";

export const title = () => "Receipt";

/** A job's bundle, and what a browser finds of it by the keys of this server. */
async function readVerified(id) {
  const [bundle, keys] = await Promise.all([beacon.bundle(id), beacon.keys()]);
  const found = await verify(bundle, keys).catch(() => null); // no Ed25519 in this browser
  return { bundle, found };
}

const UNKNOWN = "This browser cannot check the signatures (Ed25519). Download the bundle instead.";

/** How a receipt came out. */
const Proof = ({ problem }) =>
  problem === null
    ? html`<${Tag} tone="completed">Verified<//>`
    : html`<${Tag} tone="failed">Not proved<//> <span class="problem wrap">${problem}</span>`;

export function Receipts({ id }) {
  const [checked, setChecked] = useState(null);
  const save = (name, read) =>
    act(`${name} could not be read`, async () =>
      download(name, `${JSON.stringify(await read(), null, 1)}\n`, "application/json"),
    );
  const bundle = () => save(`beacon-${shortId(id)}.json`, () => beacon.bundle(id));
  const keys = () => save("beacon-keys.json", beacon.keys);
  const check = () =>
    act("The receipts could not be read", async () => setChecked(await readVerified(id)));
  return html`<section class="card stack" aria-labelledby="h-receipts">
    <div class="bar">
      <h2 id="h-receipts">Receipts</h2>
      <span class="spacer"></span>
      <${ActionButton} className="primary" run=${check}>Verify here<//>
      <${ActionButton} run=${bundle}>Download the bundle<//>
      <${ActionButton} className="quiet" run=${keys}>Public key<//>
    </div>
    <div role="status">${checked && html`<${Checked} id=${id} ...${checked} />`}</div>
    <p class="muted small">
      Each is signed. Anyone can verify the bundle without this server: <code>
        minutehand beacon verify bundle.json --keys beacon-keys.json
      </code>
    </p>
  </section>`;
}

const Checked = ({ id, bundle, found }) =>
  found === null
    ? html`<p class="problem">${UNKNOWN}</p>`
    : html`<ul class="stack">
      ${bundle.receipts.map(
        (one) => html`<li class="bar" key=${one.id} data-proof=${one.region}>
          <a href=${`/benchmarks/${id}/receipts/${one.id}`}>${one.region}</a>
          <${Proof} problem=${found.problems.get(one.id)} />
        </li>`,
      )}
      <li class="bar" data-proof="whole">
        <span>The set is whole</span>
        <${Proof} problem=${found.whole} />
      </li>
    </ul>`;

/** One receipt at an address of its own. */
export default function ReceiptPage({ id, receipt }) {
  const read = useRead(() => readVerified(id), [id]);
  const unread = unreadPage("Receipt", read, "receipt");
  if (unread) return unread;
  const { bundle, found } = read.value;
  const one = bundle.receipts.find((each) => each.id === receipt);
  if (!one) return html`<${NotFound} what="receipt" />`;
  const name = `receipt-${one.region}-${shortId(one.id)}.json`;
  const save = () => download(name, `${JSON.stringify(one, null, 1)}\n`, "application/json");
  return html`<article class="page narrow">
    <header class="page-head">
      <div class="grow">
        <p class="crumb">
          <a href="/benchmarks">Benchmarks</a> / <a href=${`/benchmarks/${id}`}>
            ${one.jobspec_id}
          </a>
        </p>
        <h1 tabindex="-1">Receipt of ${one.region}</h1>
      </div>
      <button type="button" onClick=${() => copy(location.href, "Copied the link")}>
        Copy link
      </button>
      <button type="button" onClick=${save}>Download</button>
    </header>
    <section class="card stack" aria-label="Proof">
      <div class="bar">
        ${
          found
            ? html`<${Proof} problem=${found.problems.get(one.id)} />`
            : html`<p class="problem">${UNKNOWN}</p>`
        }
      </div>
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
      <summary>As it was signed</summary>
      <${JsonView} value=${one} label="Receipt" />
    </details>
  </article>`;
}
