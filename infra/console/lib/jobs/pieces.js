// A job's stream piece by piece, from its beginning or an offset, to the end of the job.

import { Output } from "./output.js";
import { watchJob } from "./watch-job.js";

/**
 * What a job says in a stream: pieces `{ attempt, from, next, text or items }`, each character and
 * each item once and in order. One that is `from` 0 begins the stream again under another attempt:
 * what was said is to be dropped. Ends with the job, and gives its row.
 */
export async function* outputOf(client, jobId, name, { from, attempt, signal, ...options } = {}) {
  const after = from === undefined ? {} : { [name]: { attempt, next: from } };
  const merged = new Output(after); // also of what is read once more, as after another user
  const pieces = [];
  let isOver = false;
  let wake = () => {};
  const end = () => {
    isOver = true;
    wake();
  };
  const onPiece = (piece) => {
    if (piece.stream === name) pieces.push(...merged.take(piece));
    wake();
  };
  signal?.throwIfAborted();
  signal?.addEventListener("abort", end, { once: true });
  const watch = watchJob(client, jobId, { ...options, said: after, onPiece });
  watch.ended.then(end, end);
  try {
    while (true) {
      signal?.throwIfAborted();
      if (pieces.length > 0) yield pieces.shift();
      else if (isOver) return await watch.ended;
      else await new Promise((then) => (wake = then));
    }
  } finally {
    signal?.removeEventListener("abort", end);
    watch.close();
  }
}
