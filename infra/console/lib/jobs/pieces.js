// Yields the pieces of a job's stream, from the stream's beginning or from an offset, until the job
// ends.

import { Output } from "./output.js";
import { JobGone, watchJob } from "./watch-job.js";

/**
 * Yield the pieces `{ attempt, from, next, text or items }` of a job's stream, so that each
 * character and each item is yielded once and in order.
 *
 * A piece with `from` 0 means that a new attempt of the job has begun the stream again, so that the
 * caller must discard all earlier pieces. The generator ends when the job ends, and returns the
 * job's row. The generator throws `JobGone` if the job was deleted or if the user changes, for
 * example by a sign-out.
 */
export async function* outputOf(client, jobId, name, { from, attempt, signal, ...options } = {}) {
  const after = from === undefined ? {} : { [name]: { attempt, next: from } };
  const merged = new Output(after); // drops the pieces that a new read repeats
  const pieces = [];
  let isOver = false;
  let isGone = false;
  let wake = () => {};
  const end = () => {
    isOver = true;
    wake();
  };
  const onPiece = (piece) => {
    if (piece.stream === name) pieces.push(...merged.add(piece));
    wake();
  };
  const onClear = () => {
    isGone = true;
    wake();
  };
  signal?.throwIfAborted();
  signal?.addEventListener("abort", end, { once: true });
  const watch = watchJob(client, jobId, { ...options, knownOutput: after, onPiece, onClear });
  watch.ended.then(end, end);
  try {
    while (true) {
      signal?.throwIfAborted();
      if (isGone) throw new JobGone(jobId);
      if (pieces.length > 0) yield pieces.shift();
      else if (isOver) return await watch.ended;
      else await new Promise((then) => (wake = then));
    }
  } finally {
    signal?.removeEventListener("abort", end);
    watch.close();
  }
}
