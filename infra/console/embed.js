// The console's parts for other pages, without its shell: `connect` your own supabase-js client,
// then draw. README.md shows it; preact, hooks and supabase-js come as in index.html.

import { html } from "./lib/ui.js";
import { Confirmations } from "./parts/dialog.js";
import { Toasts } from "./parts/toasts.js";

export { connect } from "./api.js";
export { makeUseJobStatus, watchJob, watchSession, watchWorkspace } from "./lib/jobs.js";
export { hooks, html, render } from "./lib/ui.js";
export { Freshness, StateBadge } from "./parts/badge.js";
export { JobLog, linesOf } from "./parts/job-log.js";
export { JobMonitor } from "./parts/job-monitor.js";
export { JobProgress } from "./parts/job-progress.js";
export { Waterfall } from "./parts/waterfall.js";
export { JsonView } from "./parts/json-view.js";

/** Where the parts ask before they act, and say what came of it; once on the page. */
export const Messages = () => html`<${Confirmations} /><${Toasts} />`;
