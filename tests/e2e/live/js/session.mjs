// A client that follows one job and the jobs of its workspace while its user, socket and network
// change. It reads commands from stdin, each a line of JSON, and prints lines of JSON. A line has
// {of, freshness, …}, {event}, {words}, {ended}, {read} with the pieces of the stream `reply`, or
// {done} after each command.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { outputOf, setSchema, watchJob, watchJobs } from "../../../../infra/console/lib/jobs.js";

const { url, key, library } = JSON.parse(process.argv[2]);
const { createClient } = (await import(pathToFileURL(library).href)).default;
const print = (value) => process.stdout.write(JSON.stringify(value) + "\n");

let blocked = null; // part of the addresses whose requests hang
const pass = []; // functions that release the hanging requests
const client = createClient(url, key, {
  auth: { persistSession: false },
  global: {
    async fetch(address, init) {
      if (blocked && String(address).includes(blocked))
        await new Promise((then) => pass.push(then));
      return fetch(address, init);
    },
  },
});
setSchema(client, "public");
const watches = {};
const said = {};

/** Print the state of a watch if the state has changed. */
function show(of) {
  const { freshness, job, jobs, missing, problem } = watches[of]?.state ?? {};
  const shown = job === undefined ? (jobs ?? []).map(({ id }) => id) : (job?.id ?? null);
  const seen = { of, freshness, shown, missing, problem: problem?.code ?? null };
  if (said[of] === JSON.stringify(seen)) return;
  said[of] = JSON.stringify(seen);
  print(seen);
}

async function readPieces(job) {
  let text = "";
  for await (const piece of outputOf(client, job, "reply"))
    text = (piece.from === 0 ? "" : text) + piece.text;
  print({ read: text });
}

const commands = {
  block({ part }) {
    blocked = part;
    if (!blocked) pass.splice(0).forEach((go) => go());
  },
  /** Set the clock forward, as for a page that slept until its token expired. */
  sleep({ seconds }) {
    const { now } = Date;
    Date.now = () => now() + 1000 * seconds;
  },
  async in({ email, password }) {
    const { error } = await client.auth.signInWithPassword({ email, password });
    if (error) throw error;
    for (const of of Object.keys(watches)) show(of);
  },
  async out() {
    await client.auth.signOut({ scope: "local" });
    for (const of of Object.keys(watches)) show(of);
  },
  /** Wait until a channel is joining, or until no channel is joining. */
  async await({ joining }) {
    while (client.getChannels().some(({ state }) => state === "joining") !== joining)
      await new Promise((then) => setTimeout(then, 10));
  },
  async watch({ job, workspace }) {
    watches.job = watchJob(client, job, {
      after: 0,
      onEvent: ({ seq }) => print({ event: seq }),
      onOutput: (words) => print({ words }),
      onEnd: ({ status, result }) => print({ ended: status, result }),
      onChange: () => show("job"),
    });
    readPieces(job).catch(() => {}); // the user has changed
    watches.list = watchJobs(
      client,
      { workspace_id: workspace },
      { onEvent: ({ seq }) => print({ listed: seq }), onChange: () => show("list") },
    );
  },
};

setInterval(() => Object.keys(watches).forEach(show), 10);
for await (const line of createInterface({ input: process.stdin })) {
  const { name, ...values } = JSON.parse(line);
  await commands[name](values);
  print({ done: name });
}
process.exit(0);
