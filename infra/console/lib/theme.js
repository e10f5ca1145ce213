// Light, dark, or as the system says; kept per browser.

import { createStore } from "./store.js";

const KEY = "minutehand.theme";
export const THEMES = ["system", "light", "dark"];

const kept = localStorage.getItem(KEY) ?? "";

export const theme = createStore(THEMES.includes(kept) ? kept : "system");

function apply(/** @type {string} */ name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
}

theme.subscribe((name) => {
  localStorage.setItem(KEY, name);
  apply(name);
});
apply(theme.get());

/** The next of the three. */
export const nextTheme = () => theme.set(THEMES[(THEMES.indexOf(theme.get()) + 1) % THEMES.length]);
