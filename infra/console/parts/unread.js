// What apps show before a first read: a module of its own, which the first page does without.

import { html } from "../lib/ui.js";
import { Failed, Loading } from "./states-of-view.js";

/** Nothing is shown yet: it is being read, or could not be. */
export const Unread = ({ of: read, what }) =>
  read.error
    ? html`<${Failed}
      error=${read.error}
      retry=${read.refresh}
      what=${`${what[0].toUpperCase()}${what.slice(1)} could not be read`} />`
    : html`<${Loading} what=${`Reading ${what}`} />`;
