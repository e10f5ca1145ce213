// Holds N official supabase-js clients on one private topic and notes when each gets a job's event.
// {url, key, token, topic, count} as argument. Prints {"ready": N} when all are subscribed, and per
// job, when the last of them got its first event, {"job", "at": [ms since 1970, per client]}.
import { createClient } from "@supabase/supabase-js";

import { eventsOf, MESSAGE_VERSION } from "../console/lib/jobs/sequence.js";

const { url, key, token, topic, count } = JSON.parse(process.argv[2]);
const print = (value) => process.stdout.write(JSON.stringify(value) + "\n");
const now = () => performance.timeOrigin + performance.now();
const jobs = new Map();

function receive({ payload }) {
  const at = now();
  for (const { job_id: job, type } of eventsOf(payload)) {
    if (type !== "job.created") continue;
    if (!jobs.has(job)) jobs.set(job, []);
    const times = jobs.get(job);
    times.push(at);
    if (times.length === count) print({ job, at: times });
  }
}

await Promise.all(
  Array.from({ length: count }, async () => {
    const client = createClient(url, key, {
      auth: { persistSession: false, autoRefreshToken: false },
      accessToken: async () => token,
    });
    await client.realtime.setAuth();
    await client.rpc("follow_topic", {
      p_topic: topic,
      p_follower_id: crypto.randomUUID(),
      p_version: MESSAGE_VERSION,
    });
    const channel = client.channel(topic, { config: { private: true } });
    channel.on("broadcast", { event: "*" }, receive);
    await new Promise((resolve, reject) =>
      channel.subscribe((status, error) => (status === "SUBSCRIBED" ? resolve() : reject(error))),
    );
  }),
);
print({ ready: count });
