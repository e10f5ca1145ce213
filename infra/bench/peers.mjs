// Measures the job queues pg-boss and graphile-worker. `node peers.mjs PEER URL JOBS MS WAY`
// enqueues JOBS jobs of MS milliseconds, prints FILLED, runs the queue's worker for up to ten
// seconds, and prints SEEN with the results as JSON. WAY is `tuned`, or `shipped` for the default
// settings of the queue's worker.
import { createRequire } from "node:module";
import { performance } from "node:perf_hooks";
import { pathToFileURL } from "node:url";

const [peer, url, jobs, milliseconds, way] = process.argv.slice(2);
const [number, ms, isTuned] = [Number(jobs), Number(milliseconds), way === "tuned"];
const load = async (name) =>
  import(pathToFileURL(createRequire(`${process.cwd()}/`).resolve(name)).href);
const AT_ONCE = { completeJobBatchDelay: 0, failJobBatchDelay: 0 };
const thousand = (value) => Array.from({ length: 1000 }, () => value);

const wait = (time) => new Promise((resolve) => setTimeout(resolve, time));
let done = 0;
async function job() {
  if (ms > 0) await wait(ms);
  done += 1;
}

async function measureDrain(fill, start) {
  for (let at = 0; at < number; at += 1000) await fill();
  console.log("FILLED");
  const [cpu, began] = [process.cpuUsage(), performance.now()];
  const stop = await start();
  while (done < number && performance.now() < began + 10_000) await wait(2);
  await stop();
  const drain = (performance.now() - began) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  console.log(`SEEN${JSON.stringify({ drain, cpu: (user + system) / 1e6, done })}`);
  setTimeout(() => process.exit(0), 300); // the benchmark now reads the CPU time of the sessions
}

async function pgBoss() {
  const module = await load("pg-boss");
  const PgBoss = module.PgBoss ?? module.default;
  const boss = new PgBoss({ connectionString: url, max: 4 });
  await boss.start();
  await boss.createQueue("noop");
  // the tuned worker of pg-boss requests the next batch immediately if a batch was full
  const options = isTuned ? { batchSize: 500, burstWhenBatchFull: true } : {};
  const start = async () => {
    await boss.work("noop", options, (batch) => Promise.all(batch.map(job)));
    return () => boss.offWork("noop"); // waits until the last batch is completed
  };
  return measureDrain(() => boss.insert("noop", thousand({ data: {} })), start);
}

async function graphileWorker() {
  const { run, makeWorkerUtils, Logger } = await load("graphile-worker");
  const { Pool } = (await load("pg")).default;
  const pool = new Pool({ connectionString: url, max: 4 });
  const utils = await makeWorkerUtils({ pgPool: pool });
  await utils.migrate();
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
