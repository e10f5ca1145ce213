// PostgREST's pool of connections with its defaults, which the Supabase CLI and small projects use.
// A request waits at most ten seconds for a connection.
// https://docs.postgrest.org/en/v14/references/connection_pool.html

import { Refusal } from "./errors.mjs";

export const SIZE = 10;
const ACQUISITION_MS = 10_000;

let inUse = 0;
const waiting = []; // callbacks of waiting requests

// Run `work` when a connection is free.
export async function withConnection(work) {
  if (inUse < SIZE) inUse += 1;
  else if (!(await freed())) throw late();
  try {
    return await work();
  } finally {
    const next = waiting.shift(); // keeps the connection counted as used
    if (next) next();
    else inUse -= 1;
  }
}

// Wait for a connection. Resolves to true if a connection became free in time, and otherwise to
// false.
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
