// Colour theme of the console: light, dark, or the theme of the operating system. The browser's
// local storage keeps the theme that a person chose.

import { createStore } from "./store.js";

const KEY = "minutehand.theme";
const NAMES = ["system", "light", "dark"];
const kept = localStorage.getItem(KEY);

export const theme = createStore(NAMES.includes(kept) ? kept : NAMES[0]);
export const nextTheme = () => theme.set((now) => NAMES[(NAMES.indexOf(now) + 1) % NAMES.length]);

function apply(name) {
  localStorage.setItem(KEY, name);
  document.documentElement.style.colorScheme = name === "system" ? "" : name;
}

theme.subscribe(apply);
apply(theme.get());
