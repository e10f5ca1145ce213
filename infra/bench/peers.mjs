// pg-boss and graphile-worker: `node peers.mjs drain PEER URL JOBS MS WAY` prints FILLED, then as
// JSON after SEEN what its worker, `tuned` or as `shipped`, did of jobs of MS milliseconds in ten
// seconds; `node peers.mjs single PEER URL CALLS CLIENTS`, calls a second.
import { createRequire } from "node:module";
import { performance } from "node:perf_hooks";
import { pathToFileURL } from "node:url";

const [what, peer, url, count, more, way] = process.argv.slice(2);
const [clients, ms, isTuned] = [what === "single" ? more : 1, Number(more), way === "tuned"];
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

const wait = (time) => new Promise((resolve) => setTimeout(resolve, time));
let done = 0;
async function job() {
  if (ms > 0) await wait(ms);
  done += 1;
}

async function measureDrain(fill, start) {
  const filled = await seconds(async () => {
    for (let at = 0; at < number; at += 1000) await fill();
  });
  console.log("FILLED");
  const began = process.cpuUsage();
  const until = performance.now() + 10_000;
  const drained = await seconds(async () => {
    const stop = await start();
    while (done < number && performance.now() < until) await wait(2);
    await stop();
  });
  const { user, system } = process.cpuUsage(began);
  const seen = { fill: filled, drain: drained, cpu: (user + system) / 1e6, done };
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
  // tuned, it does not pause between full batches
  const options = isTuned ? { batchSize: 500, burstWhenBatchFull: true } : {};
  const start = async () => {
    await boss.work("noop", options, (batch) => Promise.all(batch.map(job)));
    return () => boss.offWork("noop"); // the last batch is completed then
  };
  return measureDrain(() => boss.insert("noop", thousand({ data: {} })), start);
}

async function graphileWorker() {
  const { run, makeWorkerUtils, Logger } = await load("graphile-worker");
  const { Pool } = (await load("pg")).default;
  const pool = new Pool({ connectionString: url, max: Math.max(4, Number(clients)) });
  const utils = await makeWorkerUtils({ pgPool: pool });
  await utils.migrate();
  if (what === "single") return measureSingle(() => utils.addJob("noop", {}));
  const tuned = { concurrentJobs: 24, localQueue: { size: 500 }, ...AT_ONCE };
  const start = async () => {
    const runner = await run({
      pgPool: pool,
      noHandleSignals: true,
      logger: new Logger(() => () => {}),
      taskList: { noop: job },
      preset: isTuned ? { worker: tuned } : {},
    });
    return () => runner.stop();
  };
  return measureDrain(() => utils.addJobs(thousand({ identifier: "noop", payload: {} })), start);
}

await { "pg-boss": pgBoss, "graphile-worker": graphileWorker }[peer]();
