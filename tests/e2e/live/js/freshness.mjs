// One watcher that says how fresh it is: {url, key, token, kind, subject, heartbeat, options} as argument.
// Prints {"freshness"} whenever it changes and {"event": [job, seq, type], "freshness"} for each
// event; a job's watcher ends with its job.
import { createClient } from "@supabase/supabase-js";
import {
  setSchema,
  watchJob,
  watchSession,
  watchWorkspace,
} from "../../../../infra/console/lib/jobs.js";

const { url, key, token, kind, subject, heartbeat, options } = JSON.parse(process.argv[2]);
const print = (value) => process.stdout.write(JSON.stringify(value) + "\n");

const client = createClient(url, key, {
  auth: { persistSession: false, autoRefreshToken: false },
  accessToken: async () => token,
  realtime: { timeout: 8000, heartbeatIntervalMs: heartbeat },
});
setSchema(client, "public");
let said = "";
const watches = { job: watchJob, workspace: watchWorkspace, session: watchSession };
const watch = watches[kind](client, subject, {
  history: true,
  onEvent: ({ job_id: job, seq, type }) =>
    print({ event: [job, seq, type], freshness: watch.freshness }),
  onChange: ({ freshness }) => {
    if (freshness !== said) print({ freshness: (said = freshness) });
  },
  ...options,
});

if (kind === "job") {
  await watch.ended;
  for (let n = 0; n < 100 && watch.freshness === "catching-up"; n += 1)
    await new Promise((go) => setTimeout(go, 50));
  process.exit(0);
}
setInterval(() => {}, 1000); // a watch alone does not keep a script running
