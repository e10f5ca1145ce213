// pg-boss and graphile-worker: one job per call, from one or many clients at once.
// Runs where only they are installed: `node single_peer.mjs PEER URL CALLS CLIENTS`; prints calls a second.
import { createRequire } from "node:module";
import { performance } from "node:perf_hooks";
import { pathToFileURL } from "node:url";

const [peer, url, calls, clients] = process.argv.slice(2);
const load = async (name) => {
  const found = createRequire(`${process.cwd()}/`).resolve(name);
  return import(pathToFileURL(found).href);
};

async function pgBoss() {
  const module = await load("pg-boss");
  const PgBoss = module.PgBoss ?? module.default;
  const boss = new PgBoss({ connectionString: url, max: Number(clients) });
  await boss.start();
  await boss.createQueue("noop");
  return () => boss.send("noop", {});
}

async function graphileWorker() {
  const { makeWorkerUtils } = await load("graphile-worker");
  const { Pool } = (await load("pg")).default;
  const utils = await makeWorkerUtils({
    pgPool: new Pool({ connectionString: url, max: Number(clients) }),
  });
  await utils.migrate();
  return () => utils.addJob("noop", {});
}

const action = await { "pg-boss": pgBoss, "graphile-worker": graphileWorker }[peer]();
const each = Math.floor(calls / clients);
const some = async (count) => {
  for (let at = 0; at < count; at += 1) await action();
};
const all = (count) => Promise.all(Array.from({ length: Number(clients) }, () => some(count)));
await all(20);
const began = performance.now();
await all(each);
console.log(`SEEN${(each * clients * 1000) / (performance.now() - began)}`);
process.exit(0);
