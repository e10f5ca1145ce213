// Progress bar with a label.

import { html, JobProgress } from "../../app.js";

export const Bar = ({ label, done, status }) =>
  html`<${JobProgress} label=${label} job=${{ status, progress: { percentage: done } }} compact />`;
