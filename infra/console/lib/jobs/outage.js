// Handles outages, in which no read of a session gets a response.

import { later } from "./page.js";
import { isAway } from "./session.js";

const PROBE_MS = [500, 1000, 2000]; // pauses between probes during an outage
const MAX_PROBE_MS = 3000;
const MAX_PROBES = 2;
const SPREAD_MS = 300; // followers that are woken together read within this time

/**
 * Error of a read that got no response for too long while other reads got a response, so that the
 * watch repeats the read.
 */
const HUNG = Object.assign(new Error("hung"), { isHung: true });

export class Outage {
  /** Error of the last read during the current outage, or null. */
  problem = null;
  #followers;
  #socket;
  #tries = 0;
  #read = null; // the read that is repeated as a probe during an outage
  #timer = null;
  #probes = [];
  #endReads;

  /** The function `endReads(reason)` aborts the session's reads in flight. */
  constructor(followers, socket, endReads) {
    this.#followers = followers;
    this.#socket = socket;
    this.#endReads = endReads;
  }

  begin(problem, ask) {
    const wasAway = this.problem !== null;
    this.problem = problem;
    if (wasAway) return;
    for (const follower of this.#followers) follower.notify();
    this.probe(ask);
  }

  /**
   * Send one read again and again as a probe for all followers, until a probe gets a response. An
   * earlier probe is not aborted when the next probe is sent.
   */
  probe(ask) {
    this.#socket.check();
    if (this.#read) return;
    this.#read = ask;
    this.#schedule();
  }

  /** End the outage, because a read got a response. */
  end() {
    if (!this.#read) return;
    const wasAway = this.problem !== null;
    this.stop();
    for (const controller of this.#probes.splice(0)) controller.abort();
    if (!wasAway) return;
    this.#socket.nudge();
    for (const follower of this.#followers)
      later(() => follower.refresh(), Math.random() * SPREAD_MS);
  }

  stop() {
    clearTimeout(this.#timer);
    this.problem = this.#read = null;
    this.#tries = 0;
  }

  #schedule() {
    const wait = PROBE_MS[this.#tries++] ?? MAX_PROBE_MS;
    this.#timer = later(
      () => {
        this.#schedule();
        this.#send(this.#read);
      },
      wait * (0.7 + 0.3 * Math.random()),
    );
  }

  async #send(read) {
    const controller = new AbortController();
    // A read without a response blocks its connection, so send the read again on another
    // connection. If the server is only slow, at most two more reads are sent before the first read
    // is aborted.
    if (this.#probes.push(controller) > MAX_PROBES) this.#probes.shift().abort();
    try {
      await read(controller.signal);
    } catch (error) {
      if (isAway(error)) return;
    }
    if (read !== this.#read) return;
    this.#endReads(HUNG); // each follower repeats its read immediately
    this.end();
  }
}
