// A bar that says how much is done, to eyes and ears.

import { html } from "../../lib/ui.js";

export function Bar({ label, done, tone = "processing" }) {
  const whole = Math.floor(Math.min(100, Math.max(0, done)));
  return html`<div class="progress" data-tone=${tone}>
    <div
      class="progress-track"
      role="progressbar"
      aria-label=${label}
      aria-valuemin="0"
      aria-valuemax="100"
      aria-valuenow=${whole}>
      <div class="progress-bar" style=${{ transform: `scaleX(${whole / 100})` }}></div>
    </div>
    <span class="progress-number num">${whole} %</span>
  </div>`;
}
