// What one job's streams have said, merged by offset: characters of a text, items of a list. Pure:
// no I/O, no clock.

/** Pieces of a stream kept back while an earlier one is missing; more are read again instead. */
const MAX_WAITING = 1000;

/**
 * Hands out what the streams say: each character and each item once and in order, whatever pieces
 * come, and how often. An attempt that is later begins its stream again, and what the one before
 * said is gone.
 */
export class Output {
  #streams = new Map();
  #said = {};

  /** `after`: what is known, as `ends` says it; without an attempt it is of the present one. */
  constructor(after = {}) {
    for (const [name, { attempt, next }] of Object.entries(after))
      this.#streams.set(name, begun(attempt, next ?? 0));
  }

  /** By stream its text or its items; another object once more was said. */
  get said() {
    return this.#said;
  }

  /** How far each stream is known, as `job_output` takes it and the job's row says it. */
  get ends() {
    const ends = [...this.#streams].map(([name, { attempt, next }]) => [name, { attempt, next }]);
    return Object.fromEntries(ends);
  }

  /** Whether a later piece is here, or was announced, while one before it is not. */
  get hasGap() {
    return [...this.#streams.values()].some(({ next, wanted }) => next < wanted);
  }

  /** Whether the row of the job says that there is more. */
  lacks(ends) {
    return Object.entries(ends ?? {}).some(([name, { attempt, next }]) => {
      const known = this.#streams.get(name);
      return known?.attempt !== attempt ? !(known?.attempt > attempt) : known.next < next;
    });
  }

  /** Whether messages have brought all that reads have found since `markReceived`. */
  get isReceived() {
    return [...this.#streams.values()].every(({ next, received }) => received >= next);
  }

  markReceived() {
    for (const known of this.#streams.values())
      known.received = Math.max(known.received, known.next);
  }

  /** Take a piece of a message or of a read; what is new, in order, none of it twice. */
  take({ stream, attempt, from, next, text, items }, { isMessage = false } = {}) {
    let known = this.#streams.get(stream);
    if (known) known.attempt ??= attempt;
    const isAgain = !(known?.attempt >= attempt);
    if (isAgain) {
      this.#streams.set(stream, (known = begun(attempt, 0)));
      this.#empty(stream);
    }
    if (attempt < known.attempt) return [];
    if (isMessage) known.received = Math.max(known.received, next);
    known.wanted = Math.max(known.wanted, next);
    const content = text ?? items; // what is too long for a message comes without
    if (content !== undefined && next > known.next && known.waiting.length < MAX_WAITING)
      known.waiting.push({ from, next, content });
    const ready = this.#advance(stream, known);
    const isBegun = isAgain && ready.length === 0 && from === 0 && next === 0;
    return isBegun ? [{ stream, attempt, from, next, text: "" }] : ready;
  }

  #empty(stream) {
    const was = this.#said[stream];
    if (was !== undefined)
      this.#said = { ...this.#said, [stream]: typeof was === "string" ? "" : [] };
  }

  #advance(stream, known) {
    const { attempt } = known;
    const ready = [];
    for (let at; (at = known.waiting.findIndex(({ from }) => from <= known.next)) >= 0; ) {
      const [{ from, next, content }] = known.waiting.splice(at, 1);
      if (next <= known.next) continue;
      const rest = behind(content, known.next - from);
      const isText = typeof rest === "string";
      const piece = { stream, attempt, from: known.next, next };
      ready.push(isText ? { ...piece, text: rest } : { ...piece, items: rest });
      const was = this.#said[stream];
      this.#said = {
        ...this.#said,
        [stream]: isText ? (was ?? "") + rest : [...(was ?? []), ...rest],
      };
      known.next = next;
    }
    return ready;
  }
}

const begun = (attempt, next) => ({ attempt, next, wanted: next, received: 0, waiting: [] });

/** The rest of a piece behind so many characters, as Postgres counts them, or items. */
function behind(content, count) {
  if (count === 0) return content;
  return typeof content === "string" ? [...content].slice(count).join("") : content.slice(count);
}

/** What a stream said as a text: an item a line. */
export const outputText = (said) =>
  typeof said === "string" ? said : said.map((item) => JSON.stringify(item)).join("\n");
