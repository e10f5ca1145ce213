// pg-boss and graphile-worker by their own means.
// Runs where only they are installed: `node peers.mjs drain PEER URL JOBS` prints FILLED, then
// seconds as JSON after SEEN; `node peers.mjs single PEER URL CALLS CLIENTS`, calls a second.
import { createRequire } from "node:module";
import { performance } from "node:perf_hooks";
import { pathToFileURL } from "node:url";

const [what, peer, url, count, clients = "1"] = process.argv.slice(2);
const number = Number(count);
const load = async (name) =>
  import(pathToFileURL(createRequire(`${process.cwd()}/`).resolve(name)).href);
const seconds = async (work) => {
  const began = performance.now();
  await work();
  return (performance.now() - began) / 1000;
};
const AT_ONCE = { completeJobBatchDelay: 0, failJobBatchDelay: 0 };
const thousand = (value) => Array.from({ length: 1000 }, () => value);

async function measureDrain(fill, drain) {
  const filled = await seconds(async () => {
    for (let at = 0; at < number; at += 1000) await fill();
  });
  console.log("FILLED");
  const began = process.cpuUsage();
  const drained = await seconds(drain);
  const { user, system } = process.cpuUsage(began);
  const seen = { fill: filled, drain: drained, cpu: (user + system) / 1e6 };
  console.log(`SEEN${JSON.stringify(seen)}`);
  setTimeout(() => process.exit(0), 300); // anyone who reads this looks at the sessions' CPU now
}

async function measureSingle(action) {
  const each = Math.floor(number / Number(clients));
  const some = async (calls) => {
    for (let at = 0; at < calls; at += 1) await action();
  };
  const all = (calls) => Promise.all(Array.from({ length: Number(clients) }, () => some(calls)));
  await all(20);
  const taken = await seconds(() => all(each));
  console.log(`SEEN${(each * Number(clients)) / taken}`);
  process.exit(0);
}

async function pgBoss() {
  const module = await load("pg-boss");
  const PgBoss = module.PgBoss ?? module.default;
  const boss = new PgBoss({ connectionString: url, max: Math.max(4, Number(clients)) });
  await boss.start();
  await boss.createQueue("noop");
  if (what === "single") return measureSingle(() => boss.send("noop", {}));
  // its worker, configured not to pause between full batches
  const drain = async () => {
    let done = 0;
    await new Promise((resolve) => {
      boss.work("noop", { batchSize: 500, burstWhenBatchFull: true }, async (batch) => {
        done += batch.length;
        if (done >= number) setImmediate(resolve);
      });
    });
    await boss.offWork("noop"); // the last batch is completed now
  };
  return measureDrain(() => boss.insert("noop", thousand({ data: {} })), drain);
}

async function graphileWorker() {
  const { run, makeWorkerUtils, Logger } = await load("graphile-worker");
  const { Pool } = (await load("pg")).default;
  const pool = new Pool({ connectionString: url, max: Math.max(4, Number(clients)) });
  const utils = await makeWorkerUtils({ pgPool: pool });
  await utils.migrate();
  if (what === "single") return measureSingle(() => utils.addJob("noop", {}));
  const drain = async () => {
    const runner = await run({
      pgPool: pool,
      noHandleSignals: true,
      logger: new Logger(() => () => {}),
      taskList: { noop: async () => {} },
      preset: { worker: { concurrentJobs: 24, localQueue: { size: 500 }, ...AT_ONCE } },
    });
    const left = "select exists (select from graphile_worker._private_jobs) as some";
    while ((await pool.query(left)).rows[0].some) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await runner.stop();
  };
  return measureDrain(() => utils.addJobs(thousand({ identifier: "noop", payload: {} })), drain);
}

await { "pg-boss": pgBoss, "graphile-worker": graphileWorker }[peer]();
