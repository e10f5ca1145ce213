// The connections of PostgREST's pool, by its defaults, which the Supabase CLI and small projects
// have: every caller takes the next one, and is refused when none was free for ten seconds.
// https://docs.postgrest.org/en/v14/references/connection_pool.html

import { Refusal } from "./errors.mjs";
import { settings } from "./settings.mjs";

export const SIZE = settings.isStrict ? 10 : 16;
const ACQUISITION_MS = 10_000;

let inUse = 0;
const waiting = []; // each lets one caller in

// Do `work` once a connection is free for it.
export async function withConnection(work) {
  if (inUse < SIZE) inUse += 1;
  else if (!(await freed())) throw late();
  try {
    return await work();
  } finally {
    const next = waiting.shift(); // in this one's place
    if (next) next();
    else inUse -= 1;
  }
}

// Whether a connection became free in time.
function freed() {
  return new Promise((settle) => {
    const begin = () => {
      clearTimeout(timer);
      settle(true);
    };
    const timer = setTimeout(() => {
      waiting.splice(waiting.indexOf(begin), 1);
      settle(false);
    }, ACQUISITION_MS);
    waiting.push(begin);
  });
}

function late() {
  const message = "Timed out acquiring connection from connection pool.";
  return new Refusal(504, { code: "PGRST003", message });
}
