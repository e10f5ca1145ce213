// JobProgress: how far a job is, as a bar with its stage in words.

import { percentage } from "../lib/format.js";
import { stateOf } from "../lib/states.js";
import { classes, html } from "../lib/ui.js";

export function JobProgress({ job, compact = false }) {
  const { status, progress } = job;
  const done = status === "completed" ? 100 : percentage(progress);
  const { tone, word } = stateOf(status);
  const words = progress?.message || progress?.stage || "";
  return html`<div
    class=${classes("progress", compact && "compact")}
    data-tone=${tone}
    data-status=${status}>
    <div
      class="progress-track"
      role="progressbar"
      aria-label="Progress"
      aria-valuemin="0"
      aria-valuemax="100"
      aria-valuenow=${done}
      aria-valuetext=${`${done} %, ${words || word}`}>
      <div class="progress-bar" style=${{ transform: `scaleX(${done / 100})` }}></div>
    </div>
    <span class="progress-number num">${done} %</span>
    ${!compact && words && html`<span class="progress-words">${words}</span>`}
  </div>`;
}
