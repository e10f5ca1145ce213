// An address that leads nowhere, or to what is not yours: the two look alike.

import { html } from "../lib/ui.js";

export const title = () => "Not found";

export default function NotFound({ what = "page" }) {
  const name = what[0].toUpperCase() + what.slice(1);
  const why =
    what === "page"
      ? `There is no page at ${location.pathname}.`
      : "It does not exist, or is not yours.";
  return html`<div class="page">
    <header class="page-head"><h1 tabindex="-1">${name} not found</h1></header>
    <p class="muted">${why}</p>
    <p><a href="/jobs">All jobs</a></p>
  </div>`;
}
