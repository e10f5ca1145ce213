// Limits concurrent requests per caller, so that no caller waits for others. The limit is two per
// caller, enough for one thread, and eight for the service, half of the connections. Other requests
// wait unread.

import { claimsOf } from "./tokens.mjs";

const SERVICE = "service";

export class Turns {
  #callers = new Map();

  // Run `work` when the caller has a free slot.
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
        caller.waiting.shift()(); // takes the slot
      else if (--caller.running === 0) this.#callers.delete(name);
    }
  }
}

// The caller for the limit: a person, all anonymous callers together, or the service.
function callerOf(request) {
  try {
    const { role, sub } = claimsOf(request);
    return ["anon", "authenticated"].includes(role) ? (sub ?? role) : SERVICE;
  } catch {
    return "anon"; // will be rejected
  }
}
