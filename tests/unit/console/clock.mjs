/**
 * Let pauses of at most `maxMs` milliseconds take no real time. They move the clock instead. Longer
 * pauses, such as time-outs, stay as they are.
 */
export function skipPauses(maxMs) {
  const { setTimeout: wait } = globalThis;
  const { now } = Date;
  let skipped = 0;
  Date.now = () => now() + skipped;
  globalThis.setTimeout = (run, ms = 0, ...given) => {
    if (ms > maxMs) return wait(run, ms, ...given);
    skipped += ms;
    return wait(run, 0, ...given);
  };
}
