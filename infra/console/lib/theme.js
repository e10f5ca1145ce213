// Light, dark, or as the system says; kept per browser.

import { keptChoice } from "./store.js";

const NAMES = ["system", "light", "dark"];
export const { store: theme, next: nextTheme } = keptChoice("minutehand.theme", NAMES);

function apply(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
}

theme.subscribe(apply);
apply(theme.get());
