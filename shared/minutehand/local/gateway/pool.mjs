// The connections of PostgREST's pool, by its defaults, which the Supabase CLI and small projects
// have: every caller takes the next one, and is refused when none was free for ten seconds.
// https://docs.postgrest.org/en/v14/references/connection_pool.html

import { Refusal } from "./errors.mjs";

const SIZE = 10;
const ACQUISITION_MS = 10_000;

export class Pool {
  #inUse = 0;
  #waiting = []; // each lets one caller in

  // Give the answer of `work` once a connection is free for it.
  async answer(request, work) {
    if (this.#inUse < SIZE) this.#inUse += 1;
    else if (!(await this.#freed())) return refused();
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift(); // in this one's place
      if (next) next();
      else this.#inUse -= 1;
    }
  }

  // Whether a connection became free in time.
  #freed() {
    return new Promise((settle) => {
      const begin = () => {
        clearTimeout(timer);
        settle(true);
      };
      const timer = setTimeout(() => {
        this.#waiting.splice(this.#waiting.indexOf(begin), 1);
        settle(false);
      }, ACQUISITION_MS);
      this.#waiting.push(begin);
    });
  }
}

function refused() {
  const message = "Timed out acquiring connection from connection pool.";
  return new Refusal(504, { code: "PGRST003", message }).response();
}
