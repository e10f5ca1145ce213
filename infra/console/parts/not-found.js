// Page for an address that does not exist, or that the person may not see. The page is the same if
// the object does not exist and if the person may not see it, so that the page does not reveal
// whether the object exists.

import { capitalize } from "../lib/format.js";
import { html } from "../lib/ui.js";
import { pageHead, Placeholder } from "./states-of-view.js";

export const title = () => "Not found";

export function NotFound({ what = "page" }) {
  const isPage = what === "page";
  const reasons = {
    page: `There is no page at ${location.pathname}.`,
    job: "It does not exist, was deleted after its retention, or is in a workspace that you may not see. Check its id, or ask a member of its workspace.",
  };
  return html`<div class="page">
    ${pageHead(`${capitalize(what)} not found`)}
    <p class="muted">${reasons[what] ?? "It does not exist, or you may not see it."}</p>
    <p>${isPage ? html`<a href="/overview">Overview</a>` : html`<a href=".">Back</a>`}</p>
  </div>`;
}

/**
 * Return the page to show while an object is loading, if it failed to load, or if it does not
 * exist. Return false if the object is loaded.
 */
export const placeholderPage = (name, read, what) =>
  [404, 422].includes(read.error?.status) && (read.error.isRefusal ?? true)
    ? html`<${NotFound} what=${what} />`
    : read.value === undefined &&
      html`<div class="page">
      <h1 tabindex="-1">${name}</h1>
      <${Placeholder} of=${read} what=${`the ${what}`} />
    </div>`;

export { NotFound as default };
