// The elements' words and looks. Colours are mixed from the page's own text colour, so that they fit
// light and dark pages alike; the package's README.md names words, parts and variables.

export const TEXTS = {
  queued: "Queued",
  scheduled: "Scheduled",
  retrying: "Retrying",
  running: "Running",
  suspended: "Suspended",
  completed: "Completed",
  failed: "Failed",
  cancelled: "Cancelled",
  live: "Live",
  "catching-up": "Catching up",
  polling: "Polling",
  offline: "Offline",
  loading: "Loading",
  missing: "No such job, or it is not yours.",
  "signed-out": "Sign in to see this.",
  forbidden: "You may not see this.",
  next: "Next run: {at}",
  until: "Without an answer it continues: {at}",
  progress: "Progress",
  answer: "Your answer",
  send: "Answer",
  log: "Log",
  empty: "No jobs yet",
};

const mixed = (/** @type {string} */ name, /** @type {string} */ colour) =>
  `color-mix(in oklab,var(--minutehand-${name},${colour}) 70%,currentColor)`;

// a rule a line, without spaces: what is here is sent
export const STYLE = `:host{display:block;font:var(--minutehand-font,inherit);color:var(--minutehand-text,inherit);--line:var(--minutehand-line,color-mix(in srgb,currentColor 22%,transparent));--muted:var(--minutehand-muted,color-mix(in srgb,currentColor 72%,transparent));--bad:${mixed("failed", "#c81e1e")}}
[hidden],:host([compact]) [part=freshness]{display:none!important}
*{box-sizing:border-box;margin:0;overflow-wrap:anywhere}
section{display:grid;gap:.5em;padding:.8em 1em;border:1px solid var(--line);border-radius:var(--minutehand-radius,.6em);background:var(--minutehand-surface,none);--ink:var(--muted)}
:host([compact]) section{border:0;padding:.6em 0;background:none}
.running{--ink:${mixed("running", "#2563eb")}}
.completed{--ink:${mixed("completed", "#15803d")}}
.suspended{--ink:${mixed("waiting", "#b45309")}}
.failed,.retrying{--ink:var(--bad)}
header,form div{display:flex;flex-wrap:wrap;gap:.5em;align-items:baseline}
strong{color:var(--ink)}
strong:before{content:"";display:inline-block;width:.6em;height:.6em;border-radius:1em;background:var(--ink);margin-inline-end:.4em}
[part=label]{flex:1 8em}
small,summary{color:var(--muted);font-size:.9em}
[role=progressbar]{block-size:.4em;border-radius:1em;background:var(--line);overflow:hidden}
[part=bar]{block-size:100%;background:var(--ink)}
.going{opacity:.4}
em,.error,.error *{color:var(--bad);font-style:normal;white-space:pre-wrap}
form{display:grid;gap:.5em;border-inline-start:3px solid var(--ink);padding-inline-start:.8em}
input,button{font:inherit;color:inherit;background:none;border:1px solid var(--muted);border-radius:.4em;padding:.35em .7em}
input{flex:1 9em;min-inline-size:0}
button,summary{cursor:pointer}
button:hover{background:var(--line)}
:focus-visible{outline:2px solid;outline-offset:2px}
ul{list-style:none;padding:0}
[role=log]{max-height:16em;overflow:auto;font:.85em/1.5 monospace;white-space:pre-wrap}
ul>li+li{border-block-start:1px solid var(--line)}
[part=announcement]{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
@media(prefers-reduced-motion:no-preference){[part=bar]{transition:inline-size .3s}.going{animation:go 1s infinite alternate}}
@keyframes go{to{opacity:.8}}`;
