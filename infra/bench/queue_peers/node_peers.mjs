// pg-boss and graphile-worker by their own means: bulk enqueue, then one worker.
// Runs where only they are installed: `node node_peers.mjs PEER URL JOBS`; prints seconds as JSON.
import { createRequire } from "node:module";
import { performance } from "node:perf_hooks";
import { pathToFileURL } from "node:url";

const [peer, url, count] = process.argv.slice(2);
const jobs = Number(count);
const load = async (name) => {
  const found = createRequire(`${process.cwd()}/`).resolve(name);
  return import(pathToFileURL(found).href);
};
const seconds = async (work) => {
  const began = performance.now();
  await work();
  return (performance.now() - began) / 1000;
};

const spent = (since) => {
  const { user, system } = process.cpuUsage(since);
  return (user + system) / 1e6;
};

async function pgBoss(drain) {
  const module = await load("pg-boss");
  const PgBoss = module.PgBoss ?? module.default;
  const boss = new PgBoss(url);
  await boss.start();
  await boss.createQueue("noop");
  const fill = await seconds(async () => {
    for (let at = 0; at < jobs; at += 1000) {
      await boss.insert(
        "noop",
        Array.from({ length: 1000 }, () => ({ data: {} })),
      );
    }
  });
  console.log("FILLED");
  const cpu = process.cpuUsage();
  return { fill, drain: await seconds(() => drain(boss)), cpu: spent(cpu) };
}

// its worker, configured not to pause between full batches
const byWorkers = (localConcurrency) => async (boss) => {
  let done = 0;
  await new Promise((resolve) => {
    boss.work(
      "noop",
      { batchSize: 500, burstWhenBatchFull: true, localConcurrency },
      async (batch) => {
        done += batch.length;
        if (done >= jobs) setImmediate(resolve);
      },
    );
  });
  await boss.offWork("noop"); // the last batch is completed now
};

// the two calls below its worker, which does more for each job
async function byHand(boss) {
  for (;;) {
    const batch = await boss.fetch("noop", { batchSize: 500 });
    if (!batch.length) return;
    await boss.complete(
      "noop",
      batch.map((job) => job.id),
    );
  }
}

async function graphileWorker() {
  const { run, makeWorkerUtils } = await load("graphile-worker");
  const { Pool } = (await load("pg")).default;
  const pool = new Pool({ connectionString: url });
  const utils = await makeWorkerUtils({ pgPool: pool });
  await utils.migrate();
  const fill = await seconds(async () => {
    for (let at = 0; at < jobs; at += 1000) {
      await utils.addJobs(
        Array.from({ length: 1000 }, () => ({ identifier: "noop", payload: {} })),
      );
    }
  });
  console.log("FILLED");
  const cpu = process.cpuUsage();
  const drain = await seconds(async () => {
    const runner = await run({
      pgPool: pool,
      noHandleSignals: true,
      logger: new (await load("graphile-worker")).Logger(() => () => {}),
      taskList: { noop: async () => {} },
      preset: {
        worker: {
          concurrentJobs: 24,
          localQueue: { size: 500 },
          completeJobBatchDelay: 0,
          failJobBatchDelay: 0,
        },
      },
    });
    for (;;) {
      const { rows } = await pool.query(
        "select exists (select from graphile_worker._private_jobs) as some",
      );
      if (!rows[0].some) break;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await runner.stop();
  });
  return { fill, drain, cpu: spent(cpu) };
}

const peers = {
  "pg-boss": () => pgBoss(byWorkers(1)),
  "pg-boss, two workers": () => pgBoss(byWorkers(2)),
  "pg-boss, by hand": () => pgBoss(byHand),
  "graphile-worker": graphileWorker,
};
const seen = await peers[peer]();
console.log(`SEEN${JSON.stringify(seen)}`);
setTimeout(() => process.exit(0), 300); // anyone who reads this looks at the sessions' CPU now
