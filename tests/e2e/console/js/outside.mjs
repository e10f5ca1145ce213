// The library as somebody else's program uses it: Node, their own supabase-js client, many watches.
// Reads {url, key, token, jobs, sessionId, watchers} from stdin; says "ready", then what was told.

import { createClient } from "@supabase/supabase-js";
import { setSchema, watchJob, watchSession } from "../../../../infra/console/lib/jobs.js";
import { until } from "../../../unit/console/world.mjs";

const order = JSON.parse(await new Response(process.stdin).text());
const client = createClient(order.url, order.key, {
  accessToken: async () => order.token,
  auth: { persistSession: false },
});
setSchema(client, "public");
const watches = Array.from({ length: order.watchers }, (_, index) => {
  const told = [];
  const jobId = order.jobs[index % order.jobs.length];
  return {
    jobId,
    told,
    watch: watchJob(client, jobId, {
      history: true,
      onEvent: ({ seq, type }) => told.push([seq, type]),
    }),
  };
});
const session = [];
const sessionWatch = watchSession(client, order.sessionId, {
  history: true,
  onEvent: ({ job_id: id, seq, type }) => session.push([id, seq, type]),
});
const isLive = ({ freshness }) => freshness === "live";
await until(
  () => watches.every(({ watch }) => isLive(watch)) && isLive(sessionWatch),
  "everything live",
  60_000,
);
console.log("ready");

const rows = await Promise.all(watches.map(({ watch }) => watch.ended));
const ended = () =>
  sessionWatch.state.jobs.length === order.jobs.length &&
  sessionWatch.state.jobs.every((job) => job.finished_at);
await until(() => ended() && isLive(sessionWatch), "the session's end", 60_000);
console.log(
  JSON.stringify({
    session,
    watches: watches.map(({ jobId, told }, index) => ({ jobId, told, status: rows[index].status })),
  }),
);
for (const { watch } of watches) watch.close();
sessionWatch.close();
await client.realtime.disconnect();
process.exit(0);
