// A page that follows a job's words, as the argument says: prints the ms that each of them took, from
// when it was written, which is what it says.
import { createClient } from "@supabase/supabase-js";
import { setSchema, watchJob } from "../console/lib/jobs.js";

const { url, key, token, job, schema } = JSON.parse(process.argv[2]);
const client = createClient(url, key, { accessToken: async () => token });
setSchema(client, schema);
const took = [];
let isReady = false;
let shown = "";
const watch = watchJob(client, job, {
  onOutput({ words }) {
    const now = Date.now();
    for (const written of words.slice(shown.length).trim().split(" ")) took.push(now - written);
    shown = words;
  },
  onChange({ freshness }) {
    if (!isReady && freshness === "live") process.stdout.write("live\n");
    isReady ||= freshness === "live";
  },
});
await watch.ended;
process.stdout.end(JSON.stringify(took) + "\n", () => process.exit(0));
