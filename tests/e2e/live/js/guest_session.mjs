// A guest without a user: {url, key, session} as argument; with {token, job} the user a guest session was
// opened for. Prints {"freshness", "told", "jobs", "missing"} whenever it changes, until it is killed.
import { createClient } from "@supabase/supabase-js";
import { setSchema, watchJob, watchSession } from "../../../../infra/console/lib/jobs.js";

const { url, key, session, token, job, options } = JSON.parse(process.argv[2]);
const client = createClient(url, key, {
  auth: { persistSession: false, autoRefreshToken: false },
  ...(token && { accessToken: async () => token }),
});
setSchema(client, "public");
const told = [];
let said = "";
const settings = {
  history: true,
  onEvent: (event) => told.push([event.job_id, event.seq, event.type, event.data.log?.message]),
  onChange: ({ freshness, job: one, jobs = [one].filter(Boolean), missing }) => {
    const rows = jobs.map(({ id, status, result, payload }) => ({ id, status, result, payload }));
    const state = JSON.stringify({ freshness, told, jobs: rows, missing });
    if (state !== said) process.stdout.write((said = state) + "\n");
  },
  ...options,
};
const watch = job
  ? watchJob(client, job, { ...settings, guestSession: session })
  : watchSession(client, session, settings);
setInterval(() => watch, 60_000);
