// Readers of jobs' output through one URL. Each job has two watches on two clients and one reader
// of pieces. With `session_id` the readers are guests without a user.
//
// Output: {"live": true} once all watches are live, and at the end
// {"read": [{job, by, text, status, seqs}]}. A line on stdin renews the tokens of the sessions and
// prints {"renewed": count}.
import { createInterface } from "node:readline";
import { createClient } from "@supabase/supabase-js";
import { outputOf, setSchema, watchJob } from "../../../../infra/console/lib/jobs.js";

const { url, key, email, password, session_id, jobs, from } = JSON.parse(process.argv[2]);
const print = (value) => process.stdout.write(JSON.stringify(value) + "\n");
const clients = [1, 2].map(() =>
  createClient(url, key, {
    auth: { persistSession: false, autoRefreshToken: false },
    realtime: { timeout: 2000, heartbeatIntervalMs: 1000 },
  }),
);
const [one, other] = clients;
for (const client of clients) {
  setSchema(client, "public");
  if (session_id) continue;
  const { error } = await client.auth.signInWithPassword({ email, password });
  if (error) throw error;
}

createInterface({ input: process.stdin }).on("line", async () => {
  await Promise.all(clients.map(renew));
  print({ renewed: clients.length });
});

/** Renew a client's token. Two tokens of the same second are equal, so repeat until it differs. */
async function renew(client) {
  const before = await tokenOf(client);
  while ((await tokenOf(client)) === before) {
    const { error } = await client.auth.refreshSession();
    if (error) throw error;
  }
}

async function tokenOf(client) {
  const { data } = await client.auth.getSession();
  return data.session.access_token;
}

const live = new Set();
const read = [];

async function watched(client, job) {
  const seqs = [];
  let text;
  const watch = watchJob(client, job, {
    session_id,
    pollingInterval: 1000,
    history: true,
    onEvent: ({ seq }) => seqs.push(seq),
    onOutput: ({ reply }) => (text = reply),
    onChange: ({ freshness }) => freshness === "live" && live.add(watch),
  });
  const { status } = await watch.ended;
  watch.close();
  read.push({ job, by: "watch", text, status, seqs });
}

async function piece_by_piece(job) {
  let text = "";
  const pieces = outputOf(one, job, "reply", { from, session_id });
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
process.stdin.destroy();
process.stdout.end(JSON.stringify({ read }) + "\n", () => process.exit(0));
