// Waits until all jobs of a list have ended.

import { watchJob } from "./watch-job.js";

const MAX_FOLLOWED = 20; // jobs that one call follows at the same time

/**
 * Wait until all jobs have ended, and return their rows in the order of the ids. The promise
 * rejects if one of the jobs was deleted, or if `signal` aborts.
 */
export async function waitAll(client, jobIds, { schema, signal } = {}) {
  const left = [...jobIds.entries()];
  const rows = [];
  const watches = new Set();
  const follow = async () => {
    for (let next; (next = left.shift()); ) {
      const [at, id] = next;
      const watch = watchJob(client, id, { schema });
      watches.add(watch);
      rows[at] = await watch.ended;
      watches.delete(watch);
      watch.close();
    }
  };
  const aborted = new Promise((_, reject) => {
    const abort = () => reject(signal.reason);
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort, { once: true });
  });
  try {
    await Promise.race([aborted, Promise.all(Array.from({ length: MAX_FOLLOWED }, follow))]);
    return rows;
  } finally {
    left.length = 0;
    for (const watch of watches) watch.close();
  }
}
