// Enqueue to the first line of the processor in pg-boss and graphile-worker, one idle worker each.
// Runs where they are installed: `node node_pickups.mjs pg-boss|graphile-worker URL JOBS`; prints
// {"waits": [seconds]}. graphile-worker is woken by LISTEN, pg-boss in its own process.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";

const [peer, url, count] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(createRequire(`${process.cwd()}/`).resolve(name)).href);
const now = () => performance.timeOrigin + performance.now();
const waits = [];
const ran = ({ sent }) => void waits.push((now() - sent) / 1000);

async function pgBoss() {
  const module = await load("pg-boss");
  const boss = new (module.PgBoss ?? module.default)(url);
  await boss.start();
  await boss.createQueue("noop");
  const worker = await boss.work("noop", { pollingIntervalSeconds: 0.5 }, async (jobs) =>
    jobs.forEach((job) => ran(job.data)),
  );
  return async (data) => {
    await boss.send("noop", data);
    boss.notifyWorker(worker);
  };
}

async function graphileWorker() {
  const { run, Logger } = await load("graphile-worker");
  const runner = await run({
    connectionString: url,
    noHandleSignals: true,
    logger: new Logger(() => () => {}),
    taskList: { noop: async (data) => ran(data) },
    concurrency: 5,
  });
  return (data) => runner.addJob("noop", data);
}

const enqueue = await { "pg-boss": pgBoss, "graphile-worker": graphileWorker }[peer]();
await sleep(1000);
for (let n = 0; n < Number(count); n += 1) {
  await enqueue({ sent: now() });
  await sleep(50 + Math.random() * 50); // falls into step with no poll
}
for (let n = 0; n < 600 && waits.length < Number(count); n += 1) await sleep(100);
console.log("SEEN" + JSON.stringify({ waits }));
process.exit(0);
