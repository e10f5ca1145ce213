// A job's log lines from their table: the latest first, earlier ones on demand, new ones as its
// events report them. Events alone would not do: they are cut short, and some types send none.

import { data, unwrap } from "../api.js";
import { isTransient } from "../lib/store.js";
import { useEffect, useLayoutEffect, useRef, useState } from "../lib/ui.js";

const PAGE = 1000;
const PAUSE_MS = 120;
const RETRY_MS = 5000;
/** Of a terminal, as libraries write them: ESC [ … m. */
const COLOURS = new RegExp(`${String.fromCharCode(27)}\\[[\\d;]*m`, "g");
const COLUMNS = "id,attempt,log_level,message,metadata,created_at";

const query = (jobId) => data().from("job_logs").select(COLUMNS).eq("job_id", jobId).limit(PAGE);

const asLine = (row) => ({
  key: row.id,
  at: row.created_at,
  level: row.log_level,
  attempt: row.attempt,
  message: row.message.replace(COLOURS, ""),
  metadata: row.metadata,
});

/** The lines of one job; `notify` says that there may be more. */
class JobLines {
  #jobId;
  #changed;
  #lines = [];
  #reading = false;
  #again = false;
  #closed = false;
  #hasEarlier = false;
  #error = null;

  constructor(jobId, changed) {
    this.#jobId = jobId;
    this.#changed = changed;
  }

  close() {
    this.#closed = true;
  }

  /** Something was logged, or may have been: read on, at once when idle, else after this read. */
  async notify() {
    this.#again = true;
    if (this.#reading) return;
    this.#reading = true;
    while (this.#again && !this.#closed) {
      this.#again = false;
      await this.#attempt(() => (this.#lines.length === 0 ? this.#latest() : this.#later()));
      if (this.#again) await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
    this.#reading = false;
  }

  /** A page of earlier lines before those that are here; true while there are more. */
  async earlier() {
    await this.#attempt(async () => {
      const rows = await unwrap(
        query(this.#jobId).lt("id", this.#lines[0].key).order("id", { ascending: false }),
      );
      this.#hasEarlier = rows.length === PAGE;
      this.#lines = [...rows.reverse().map(asLine), ...this.#lines];
    });
    return this.#hasEarlier && !this.#error;
  }

  /** Every line, for a download. */
  async all() {
    while (this.#hasEarlier && (await this.earlier()));
    if (this.#error) throw this.#error;
    return this.#lines;
  }

  async #latest() {
    const rows = await unwrap(query(this.#jobId).order("id", { ascending: false }));
    this.#hasEarlier = rows.length === PAGE;
    this.#lines = rows.reverse().map(asLine);
  }

  async #later() {
    for (;;) {
      const rows = await unwrap(
        query(this.#jobId)
          .gt("id", this.#lines[this.#lines.length - 1].key)
          .order("id"),
      );
      if (rows.length > 0) this.#lines = [...this.#lines, ...rows.map(asLine)];
      if (rows.length < PAGE) return;
    }
  }

  async #attempt(read) {
    try {
      await read();
      this.#error = null;
    } catch (error) {
      this.#error = error;
      if (isTransient(error) && !this.#closed) setTimeout(() => this.notify(), RETRY_MS);
    }
    if (!this.#closed)
      this.#changed({ lines: this.#lines, hasEarlier: this.#hasEarlier, error: this.#error });
  }
}

export function useJobLines(jobId, sign) {
  const [state, setState] = useState({ lines: [], hasEarlier: false, error: null });
  const lines = useRef(null);
  useLayoutEffect(() => {
    const made = new JobLines(jobId, setState);
    lines.current = made;
    return () => made.close();
  }, [jobId]);
  useEffect(() => void lines.current.notify(), [jobId, sign]);
  return {
    ...state,
    earlier: state.hasEarlier ? () => lines.current.earlier() : null,
    all: () => lines.current.all(),
  };
}
