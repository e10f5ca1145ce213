// Many watchers of many jobs through one URL, as the argument says.
// Prints {"live": n} when every watcher is live for the first time, and at the end one line with
// what each watcher received: {"received": [{job, seqs, freshness, lies}]}.
import { createClient } from "@supabase/supabase-js";
import { setSchema, watchJob } from "../../../../infra/console/lib/jobs.js";

const { url, key, token, jobs, watchers, clients, options } = JSON.parse(process.argv[2]);
const print = (value) => process.stdout.write(JSON.stringify(value) + "\n");

const connections = Array.from({ length: clients }, () =>
  createClient(url, key, {
    auth: { persistSession: false, autoRefreshToken: false },
    accessToken: async () => token,
    realtime: { timeout: 2000, heartbeatIntervalMs: 1000 },
  }),
);
for (const client of connections) setSchema(client, "public");
const all = Array.from({ length: watchers }, (_, n) => {
  const watcher = { job: jobs[n % jobs.length], seqs: [], wasLive: false };
  watcher.watch = watchJob(connections[(n + Math.floor(n / jobs.length)) % clients], watcher.job, {
    history: true,
    onEvent: (event) => watcher.seqs.push(event.seq),
    onChange: (state) => {
      if (state.freshness === "live") watcher.wasLive = true;
    },
    ...options,
  });
  return watcher;
});

const poll = setInterval(() => {
  const live = all.filter((one) => one.wasLive).length;
  if (live === all.length) {
    clearInterval(poll);
    print({ live });
  }
}, 50);

await Promise.all(all.map((one) => one.watch.ended));
// ended: a last event may still be on its way from the read that follows
const settled = () => all.every((one) => one.watch.freshness !== "catching-up");
for (let n = 0; n < 200 && !settled(); n += 1) await new Promise((go) => setTimeout(go, 50));
const received = all.map(({ job, seqs, watch }) => ({ job, seqs, status: watch.state.status }));
process.stdout.end(JSON.stringify({ received }) + "\n", () => process.exit(0));
