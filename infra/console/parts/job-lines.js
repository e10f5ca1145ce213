// Reads the log lines of a job from the table of log lines. The module reads the latest page of log
// lines first, and earlier pages on demand. When an event of the job reports new log lines, the
// module reads these lines from the table, because the text in an event is shortened, and some job
// types send no events.

import { data, unwrap } from "../api.js";
import { isTransient } from "../lib/store.js";
import { useEffect, useLayoutEffect, useRef, useState } from "../lib/ui.js";

const PAGE = 1000;
const PAUSE_MS = 120;
const RETRY_MS = 5000;
/**
 * Regular expression for colour codes of terminals (`ESC [ … m`), which some libraries write into
 * logs.
 */
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

/** Log lines of one job. The page of the job calls `notify` when the job may have new log lines. */
class JobLines {
  #jobId;
  #onChange;
  #lines = [];
  #isReading = false;
  #isReadRequested = false;
  #closed = false;
  #hasEarlier = false;
  #error = null;

  constructor(jobId, onChange) {
    this.#jobId = jobId;
    this.#onChange = onChange;
  }

  close() {
    this.#closed = true;
  }

  /** Read new log lines, immediately or after the read in flight. */
  async notify() {
    this.#isReadRequested = true;
    if (this.#isReading) return;
    this.#isReading = true;
    while (this.#isReadRequested && !this.#closed) {
      this.#isReadRequested = false;
      await this.#tryRead(() => (this.#lines.length === 0 ? this.#older() : this.#newer()));
      if (this.#isReadRequested) await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
    this.#isReading = false;
  }

  /** Read a page of earlier log lines. Return whether there are more log lines before this page. */
  async earlier() {
    await this.#tryRead(() => this.#older());
    return this.#hasEarlier && !this.#error;
  }

  /** Read all log lines of the job for a download. */
  async all() {
    while (this.#hasEarlier && (await this.earlier()));
    if (this.#error) throw this.#error;
    return this.#lines;
  }

  /** Read the page before the first known log line, or the latest page if no line is known. */
  async #older() {
    const [first] = this.#lines;
    const all = query(this.#jobId).order("id", { ascending: false });
    const rows = await unwrap(first ? all.lt("id", first.key) : all);
    this.#hasEarlier = rows.length === PAGE;
    this.#lines = [...rows.reverse().map(asLine), ...this.#lines];
  }

  async #newer() {
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

  async #tryRead(read) {
    try {
      await read();
      this.#error = null;
    } catch (error) {
      this.#error = error;
      if (isTransient(error) && !this.#closed) setTimeout(() => this.notify(), RETRY_MS);
    }
    if (!this.#closed)
      this.#onChange({ lines: this.#lines, hasEarlier: this.#hasEarlier, error: this.#error });
  }
}

export function useJobLines(jobId, version) {
  const [state, setState] = useState({ lines: [], hasEarlier: false, error: null });
  const lines = useRef(null);
  useLayoutEffect(() => {
    const reader = new JobLines(jobId, setState);
    lines.current = reader;
    return () => reader.close();
  }, [jobId]);
  useEffect(() => void lines.current.notify(), [jobId, version]);
  return {
    ...state,
    earlier: state.hasEarlier ? () => lines.current.earlier() : null,
    all: () => lines.current.all(),
  };
}
