// An address that leads nowhere, or to what is not yours: the two look alike.

import { html } from "../lib/ui.js";
import { Placeholder } from "./states-of-view.js";

export const title = () => "Not found";

export default function NotFound({ what = "page" }) {
  const name = what[0].toUpperCase() + what.slice(1);
  const list = location.pathname.split("/")[1];
  const isOfApp = !["page", "job", "job type"].includes(what);
  const why =
    what === "page"
      ? `There is no page at ${location.pathname}.`
      : "It does not exist, or is not yours.";
  return html`<div class="page">
    <header class="page-head"><h1 tabindex="-1">${name} not found</h1></header>
    <p class="muted">${why}</p>
    <p>${isOfApp ? html`<a href=${`/${list}`}>Back</a>` : html`<a href="/jobs">All jobs</a>`}</p>
  </div>`;
}

/** The page of something that is being read, could not be, or is not there; else nothing. */
export const placeholderPage = (name, read, what) =>
  [404, 422].includes(read.error?.status)
    ? html`<${NotFound} what=${what} />`
    : read.value === undefined &&
      html`<div class="page">
      <h1 tabindex="-1">${name}</h1>
      <${Placeholder} of=${read} what=${`the ${what}`} />
    </div>`;
