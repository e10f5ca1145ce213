// Readers of jobs' words through one URL, as the argument says: of each job two that watch it, on two
// clients, and one that takes it piece by piece. Prints {"live": true} once all watches are live, and
// at the end {"read": [{job, by, text, status}]}.
import { createClient } from "@supabase/supabase-js";
import { outputOf, setSchema, watchJob } from "../../../../infra/console/lib/jobs.js";

const { url, key, token, jobs, from } = JSON.parse(process.argv[2]);
const print = (value) => process.stdout.write(JSON.stringify(value) + "\n");
const [one, other] = [1, 2].map(() =>
  createClient(url, key, {
    auth: { persistSession: false, autoRefreshToken: false },
    accessToken: async () => token,
    realtime: { timeout: 2000, heartbeatIntervalMs: 1000 },
  }),
);
for (const client of [one, other]) setSchema(client, "public");

const live = new Set();
const read = [];

async function watched(client, job) {
  let text;
  const watch = watchJob(client, job, {
    pollingInterval: 1000,
    onOutput: ({ reply }) => (text = reply),
    onChange: ({ freshness }) => freshness === "live" && live.add(watch),
  });
  const { status } = await watch.ended;
  watch.close();
  read.push({ job, by: "watch", text, status });
}

async function piece_by_piece(job) {
  let text = "";
  const pieces = outputOf(one, job, "reply", { from });
  for (;;) {
    const { done, value } = await pieces.next();
    if (done) return read.push({ job, by: "pieces", text, status: value.status });
    if (value.from === 0) text = "";
    text += value.text;
  }
}

const ended = jobs.flatMap((job) => [watched(one, job), watched(other, job), piece_by_piece(job)]);
const poll = setInterval(() => {
  if (live.size < 2 * jobs.length) return;
  clearInterval(poll);
  print({ live: true });
}, 20);
await Promise.all(ended);
process.stdout.end(JSON.stringify({ read }) + "\n", () => process.exit(0));
