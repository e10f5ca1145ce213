// One watcher of one job that says how fresh it is: {url, key, token, job, options} as argument.
// Prints {"freshness", "last"} whenever either changes, and {"told": [[seq, type]]} at the end.
import { createClient } from "@supabase/supabase-js";
import { setSchema, watchJob } from "../../../../infra/console/lib/jobs.js";

const { url, key, token, job, options } = JSON.parse(process.argv[2]);
const print = (value) => process.stdout.write(JSON.stringify(value) + "\n");

const client = createClient(url, key, {
  auth: { persistSession: false, autoRefreshToken: false },
  accessToken: async () => token,
  realtime: { timeout: 2000, heartbeatIntervalMs: 1000 },
});
setSchema(client, "public");
const told = [];
let said = "";
const watch = watchJob(client, job, {
  history: true,
  onEvent: (event) => told.push([event.seq, event.type]),
  onChange: ({ freshness }) => {
    const state = { freshness, last: told.at(-1)?.[0] ?? 0 };
    if (JSON.stringify(state) === said) return;
    said = JSON.stringify(state);
    print(state);
  },
  ...options,
});

await watch.ended;
for (let n = 0; n < 100 && watch.freshness === "catching-up"; n += 1)
  await new Promise((go) => setTimeout(go, 50));
print({ told });
process.exit(0);
