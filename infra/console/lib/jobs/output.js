// Merges the pieces of a job's streams to the streams' content, in the order of their offsets. A
// stream is a text of characters or a list of items. The module does no I/O and uses no clock.

/**
 * Maximum number of pieces that are kept for a stream while an earlier piece is missing. Pieces
 * above this maximum are dropped, and read from the database later.
 */
const MAX_WAITING = 1000;

/**
 * Merges the pieces of a job's streams, so that each character and each item is delivered once and
 * in order. Pieces may be lost, repeated or reordered. When a later attempt of the job writes to a
 * stream, the stream begins again. The first content of the attempt replaces the earlier content.
 */
export class Output {
  #streams = new Map();
  #content = {};

  /**
   * `after` contains, in the form of `ends`, how far the caller already has each stream. An entry
   * without `attempt` belongs to the job's current attempt.
   */
  constructor(after = {}) {
    for (const [name, { attempt, next }] of Object.entries(after))
      this.#streams.set(name, createStream(attempt, next ?? 0));
  }

  /**
   * Text or list of items of each stream, by the stream's name. `content` returns a new object
   * after each change.
   */
  get content() {
    return this.#content;
  }

  /**
   * Known end of each stream, as `{ attempt, next }`. The SQL function `job_output` and the job's
   * row describe ends in the same form.
   */
  get ends() {
    const ends = [...this.#streams].map(([name, { attempt, next }]) => [name, { attempt, next }]);
    return Object.fromEntries(ends);
  }

  /**
   * Is true if a piece of a stream is missing although a later piece has arrived or was announced.
   */
  get hasGap() {
    return [...this.#streams.values()].some(({ next, announced }) => next < announced);
  }

  /**
   * Return whether `ends`, from the job's row, reports output that this object does not have yet.
   */
  isBehind(ends) {
    return Object.entries(ends ?? {}).some(([name, { attempt, next }]) => {
      const known = this.#streams.get(name);
      return known?.attempt !== attempt ? !(known?.attempt > attempt) : known.next < next;
    });
  }

  /**
   * Is true if messages have delivered all output that reads have returned since the last call of
   * `markReceived`.
   */
  get isReceived() {
    return [...this.#streams.values()].every(({ next, received }) => received >= next);
  }

  markReceived() {
    for (const known of this.#streams.values())
      known.received = Math.max(known.received, known.next);
  }

  /**
   * Add a piece of a stream from a message or from a read. Return the new content, in order and
   * without repetitions.
   */
  add({ stream, attempt, from, next, text, items }, { isMessage = false } = {}) {
    let known = this.#streams.get(stream);
    if (known) known.attempt ??= attempt;
    const isNewAttempt = !(known?.attempt >= attempt);
    if (isNewAttempt) this.#streams.set(stream, (known = createStream(attempt, 0)));
    if (attempt < known.attempt) return [];
    if (isMessage) known.received = Math.max(known.received, next);
    known.announced = Math.max(known.announced, next);
    const content = text ?? items; // a message contains no content that is too long
    if (content !== undefined && next > known.next && known.waiting.length < MAX_WAITING)
      known.waiting.push({ from, next, content });
    const ready = this.#advance(stream, known);
    if (!isNewAttempt || next > 0) return ready;
    this.#clear(stream);
    return [{ stream, attempt, from, next, text: "" }];
  }

  #clear(stream) {
    const was = this.#content[stream];
    if (was !== undefined)
      this.#content = { ...this.#content, [stream]: typeof was === "string" ? "" : [] };
  }

  #advance(stream, known) {
    const { attempt } = known;
    const ready = [];
    for (let at; (at = known.waiting.findIndex(({ from }) => from <= known.next)) >= 0; ) {
      const [{ from, next, content }] = known.waiting.splice(at, 1);
      if (next <= known.next) continue;
      const rest = sliceAfter(content, known.next - from);
      const isText = typeof rest === "string";
      const piece = { stream, attempt, from: known.next, next };
      ready.push(isText ? { ...piece, text: rest } : { ...piece, items: rest });
      const was = known.next > 0 ? this.#content[stream] : undefined;
      this.#content = {
        ...this.#content,
        [stream]: isText ? (was ?? "") + rest : [...(was ?? []), ...rest],
      };
      known.next = next;
    }
    return ready;
  }
}

const createStream = (attempt, next) => ({
  attempt,
  next,
  announced: next,
  received: 0,
  waiting: [],
});

/** Return a piece without its first `count` items or characters (code points, as in Postgres). */
function sliceAfter(content, count) {
  if (count === 0) return content;
  return typeof content === "string" ? [...content].slice(count).join("") : content.slice(count);
}

/** Format the content of a stream as text. A list stream is formatted with one item per line. */
export const outputText = (content) =>
  typeof content === "string" ? content : content.map((item) => JSON.stringify(item)).join("\n");
