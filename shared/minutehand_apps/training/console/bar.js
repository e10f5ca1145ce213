// Progress bar with a label.

import { html } from "../../lib/ui.js";
import { JobProgress } from "../../parts/badge.js";

export const Bar = ({ label, done, status }) =>
  html`<${JobProgress} label=${label} job=${{ status, progress: { percentage: done } }} compact />`;
