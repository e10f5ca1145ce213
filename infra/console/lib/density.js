// How close the rows of lists are; kept per browser.

import { createStore } from "./store.js";

const KEY = "minutehand.density";
/** Heights in pixels. */
export const ROWS = { comfortable: 52, compact: 32 };

export const density = createStore(
  localStorage.getItem(KEY) === "compact" ? "compact" : "comfortable",
);

density.subscribe((name) => localStorage.setItem(KEY, name));

/** The other of the two. */
export const nextDensity = () =>
  density.set((now) => (now === "compact" ? "comfortable" : "compact"));
