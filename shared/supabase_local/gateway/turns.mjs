// A caller's requests take turns: two are worked on, as many as one thread has use for, of the
// service eight, half of the connections. The others wait unread, and no one waits behind them.

import { claimsOf } from "./tokens.mjs";

const SERVICE = "service";

export class Turns {
  #callers = new Map();

  // Give the answer of `work` when it is the caller's turn.
  async answer(request, work) {
    const name = callerOf(request);
    const caller = this.#callers.get(name) ?? { running: 0, waiting: [] };
    this.#callers.set(name, caller);
    if (caller.running < (name === SERVICE ? 8 : 2)) caller.running += 1;
    else await new Promise((begin) => caller.waiting.push(begin));
    try {
      return await work();
    } finally {
      if (caller.waiting.length > 0)
        caller.waiting.shift()(); // in its place
      else if (--caller.running === 0) this.#callers.delete(name);
    }
  }
}

// Whom a request counts for: a person, all who are not signed in, or the service.
function callerOf(request) {
  try {
    const { role, sub } = claimsOf(request);
    return ["anon", "authenticated"].includes(role) ? (sub ?? role) : SERVICE;
  } catch {
    return "anon"; // to be refused
  }
}
