// Waiting for many jobs, each followed to its end.

import { watchJob } from "./watch-job.js";

const MAX_WAITED = 20; // jobs of one call that are followed at a time

/**
 * Wait until all have ended; their rows, in the order of their ids. Rejects where one is gone, or
 * with the reason of `signal`.
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
    await Promise.race([aborted, Promise.all(Array.from({ length: MAX_WAITED }, follow))]);
    return rows;
  } finally {
    left.length = 0;
    for (const watch of watches) watch.close();
  }
}
