// What of a run was told to the workspace's webhooks, and how each delivery stands.

import { useRead } from "../../lib/store.js";
import { html } from "../../lib/ui.js";
import { StateBadge, Tag } from "../../parts/badge.js";
import { Empty, Failed, Loading } from "../../parts/states-of-view.js";
import { When } from "../../parts/when.js";
import { beacon } from "./data.js";

const WORDS = { "beacon.receipt.issued": "Receipt issued", "beacon.run.finished": "Run finished" };

/** @param {{runId: string, issued: number}} props Read again when another receipt was issued. */
export function Deliveries({ runId, issued }) {
  const events = useRead((signal) => beacon.deliveries(runId, signal), [runId, issued]);
  const told = events.value?.some((event) => event.deliveries.length > 0);
  return html`<section class="card" aria-labelledby="h-told"><div class="bar"><h2 id="h-told">Told to webhooks</h2><span class="spacer"></span>${told && html`<button type="button" class="quiet" onClick=${events.refresh}>Read again</button>`}</div>
    ${!events.value ? (events.error ? html`<${Failed} error=${events.error} retry=${events.refresh} what="The deliveries could not be read" />` : html`<${Loading} what="Reading deliveries" />`)
      : !told ? html`<${Empty} title="No webhook wanted to know">Endpoints under Operations are told of each receipt, signed and in the order of the chain.<//>`
      : html`<div class="scroll-x" tabindex="0" role="group" aria-label="Told to webhooks"><table class="table"><thead><tr><th scope="col">Event</th><th scope="col">When</th><th scope="col">Delivery</th><th scope="col">Error</th></tr></thead>
        <tbody>${events.value.flatMap((event) => event.deliveries.map((one) => html`<tr key=${event.message_id + one.webhook_id}><th scope="row">${WORDS[event.type] ?? event.type}</th><td><${When} at=${event.at} /></td>
          <td>${one.status === "waiting" && one.attempts === 0 ? html`<${Tag}>In line<//>` : html`<${StateBadge} status=${one.status} />`}${one.attempts > 1 && html` <span class="muted small num">${one.attempts} attempts</span>`}</td><td class="wrap">${one.error ?? ""}</td></tr>`))}</tbody></table></div>`}
  </section>`;
}
