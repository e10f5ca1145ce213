// Pages with different versions of supabase-js. Each follows one job and the jobs of its workspace
// while the socket and the network change. Commands arrive on stdin, each a line of JSON, and go
// to all pages. Pages print lines of JSON with their number: {freshness}, {event}, {words},
// {ended}, {read} with the pieces of the stream `reply`, or {done} after each command.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { outputOf, setSchema, watchJob, watchJobs } from "../../../../infra/console/lib/jobs.js";

const { url, key, libraries } = JSON.parse(process.argv[2]);
const { now } = Date;
const silence = 3000; // shorter than usual, so that a page soon notices that no messages arrive

let blocked = null; // part of the addresses whose requests hang
const pass = []; // functions that release the hanging requests
async function fetchUnlessBlocked(address, init) {
  if (blocked && String(address).includes(blocked)) await new Promise((then) => pass.push(then));
  return fetch(address, init);
}

class Page {
  watches = [];
  shown = "";

  constructor(number, { createClient }) {
    this.print = (value) => console.log(JSON.stringify({ page: number, ...value }));
    const options = { auth: { persistSession: false }, global: { fetch: fetchUnlessBlocked } };
    this.client = createClient(url, key, options);
    setSchema(this.client, "public");
  }

  /** Print how fresh the job and the list are, if this has changed. */
  show() {
    const freshness = this.watches.map(({ state }) => state.freshness);
    if (this.shown === `${freshness}`) return;
    this.shown = `${freshness}`;
    this.print({ freshness });
  }

  async readPieces(job) {
    let text = "";
    for await (const piece of outputOf(this.client, job, "reply"))
      text = (piece.from === 0 ? "" : text) + piece.text;
    this.print({ read: text });
  }

  block({ part }) {
    blocked = part;
    if (!blocked) pass.splice(0).forEach((go) => go());
  }

  /** Set the clock forward, as for a page that slept until its token expired. */
  sleep({ seconds }) {
    Date.now = () => now() + 1000 * seconds;
  }

  async in(credentials) {
    const { error } = await this.client.auth.signInWithPassword(credentials);
    if (error) throw error;
  }

  watch({ job, workspace }) {
    const { client, print } = this;
    const followed = watchJob(client, job, {
      silence,
      after: 0,
      onEvent: ({ seq }) => print({ event: seq }),
      onOutput: (words) => print({ words }),
      onEnd: ({ status, result }) => print({ ended: status, result }),
    });
    this.readPieces(job);
    const list = watchJobs(client, { workspace_id: workspace }, { silence });
    this.watches = [followed, list];
  }
}

const modules = await Promise.all(libraries.map((path) => import(pathToFileURL(path).href)));
const pages = modules.map((module, number) => new Page(number, module.default));
setInterval(() => pages.forEach((page) => page.show()), 10);
for await (const line of createInterface({ input: process.stdin })) {
  const { name, ...values } = JSON.parse(line);
  await Promise.all(
    pages.map(async (page) => {
      await page[name](values);
      page.print({ done: name });
    }),
  );
}
process.exit(0);
