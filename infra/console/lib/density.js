// How close the rows of lists are; kept per browser.

import { keptChoice } from "./store.js";

/** Heights in pixels. */
export const ROWS = { comfortable: 52, compact: 32 };

export const { store: density, next: nextDensity } = keptChoice(
  "minutehand.density",
  Object.keys(ROWS),
);
