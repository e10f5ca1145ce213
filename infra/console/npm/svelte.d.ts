import type { HTMLAttributes } from "svelte/elements";
import type { MinutehandJob, MinutehandJobProps } from "./tags.js";

declare module "svelte/elements" {
  interface SvelteHTMLElements {
    "minutehand-job": HTMLAttributes<MinutehandJob> & MinutehandJobProps;
  }
}
