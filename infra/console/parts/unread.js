// What apps show before a first read: a module of its own, which the first page does without.

import { html } from "../lib/ui.js";
import { Failed, Loading } from "./states-of-view.js";

/** @import { Problem } from "./states-of-view.js" */

/**
 * Nothing is shown yet: it is being read, or could not be.
 *
 * @param {{of: {error: Problem | null, refresh: () => void}, what: string}} props `what` as `the jobs`.
 */
export const Unread = ({ of: read, what }) =>
  read.error
    ? html`<${Failed}
      error=${read.error}
      retry=${read.refresh}
      what=${`${what[0].toUpperCase()}${what.slice(1)} could not be read`} />`
    : html`<${Loading} what=${`Reading ${what}`} />`;
