// What all watches of one supabase-js client stand on: who reads, the socket, and whether reads are
// answered. Another user, or a refusal, empties every row that was read; an outage empties none.

import { withTimeout, QueueError, READ_MS } from "./client.js";
import { later, onWake } from "./page.js";
import { Socket } from "./socket.js";

const AWAY_MS = [500, 1000, 2000]; // while none is answered, between questions, one for all
const MAX_AWAY_MS = 3000;
const HUNG_MS = 3000; // a read that takes longer may never end
const MAX_ASKED = 2;
const SPREAD_MS = 300; // so that many followers woken together do not all read together
const SETTLE_MS = 50; // a page comes back by several events

/** A read's answer would be another user's; the session has it read again. */
export const OUTDATED = new Error("read for another user");
/** A read hangs while others are answered: it is to be asked again. */
export const HUNG = new Error("hung");

const sessions = new WeakMap();

/** The session of a client; the same object for the same client. */
export function sessionOf(client) {
  let session = sessions.get(client);
  if (!session) sessions.set(client, (session = new Session(client)));
  return session;
}

class Session {
  #client;
  #socket;
  #followers = new Set();
  #user; // undefined until it is known
  #epoch = 0;
  #hasSessions = false; // whether supabase-js keeps them, and reports each change
  #known = null;
  #problem = null; // of the last read, while none is answered
  #tries = 0;
  #question = null; // the last read, asked again to learn whether reads are answered
  #asking = null;
  #asked = [];
  #hung = createStop(); // ends the reads under way
  #waking = null;
  #isBegun = false;
  #end = () => {};

  constructor(client) {
    this.#client = client;
    const authorize = () =>
      withTimeout(() => client.realtime.setAuth(), AbortSignal.timeout(READ_MS));
    // channels linger in the name of who reads: who that is must be known as long as there is one
    const rest = () => this.#stop();
    this.#socket = new Socket(client, { authorize, rest, wake: () => this.wake() });
  }

  /** Whether no read is answered. */
  get isAway() {
    return this.#problem !== null;
  }

  /** Why none is. */
  get problem() {
    return this.#problem;
  }

  /** Follow a topic for as long as the returned function is not called. */
  follow(follower, { topic, listener, schema }) {
    if (!this.#isBegun) this.#begin();
    this.#followers.add(follower);
    const leave = this.#socket.join(topic, listener, schema);
    return () => {
      leave();
      this.#followers.delete(follower);
    };
  }

  /**
   * What `ask(signal)` answers. Throws `OUTDATED` where it was asked for someone else, `HUNG` where
   * others were answered; a refusal of what no token came along with is an outage.
   */
  async read(ask) {
    let epoch = this.#epoch;
    const hung = later(() => this.#question ?? this.#doubt(ask), HUNG_MS);
    try {
      await this.#identify();
      epoch = this.#epoch;
      const answer = await Promise.race([ask(this.#hung.signal), this.#hung.promise]);
      await this.#identify({ again: true });
      if (epoch !== this.#epoch) throw OUTDATED;
      this.#answered();
      return answer;
    } catch (error) {
      if (epoch !== this.#epoch) throw OUTDATED;
      const isTheirs = !error?.isRefusal || (await this.#isStill(this.#user));
      if (epoch !== this.#epoch) throw OUTDATED;
      const meant = isTheirs ? error : new QueueError({}, 0);
      if (isAway(meant)) this.#failed(meant, ask);
      throw meant;
    } finally {
      clearTimeout(hung);
    }
  }

  /** Nothing comes from a topic, though there was something: the socket is dead, or its channel. */
  proveSocket() {
    this.#socket.prove();
  }

  reenter(topic, reason) {
    this.#socket.reenter(topic, reason);
  }

  /** The page, the network or a token is back: a live socket, and a read of all. */
  wake() {
    clearTimeout(this.#waking);
    this.#waking = later(() => {
      this.#socket.nudge();
      for (const follower of this.#followers) follower.refresh();
    }, SETTLE_MS);
  }

  #begin() {
    this.#isBegun = true;
    const unwake = onWake(() => this.wake());
    this.#user = undefined;
    const unlisten = this.#listen();
    this.#end = () => {
      unwake();
      unlisten();
    };
  }

  #stop() {
    this.#isBegun = false;
    this.#end();
    clearTimeout(this.#asking);
    clearTimeout(this.#waking);
    this.#problem = this.#question = this.#known = null;
    this.#tries = 0;
  }

  #listen() {
    try {
      const { data } = this.#client.auth.onAuthStateChange((event, session) => {
        const isAnother = this.#becomes(session?.user?.id ?? null);
        if (!isAnother && event !== "INITIAL_SESSION") this.wake(); // its token may be new
      });
      this.#hasSessions = true;
      return () => data.subscription.unsubscribe();
    } catch {
      // a client with an access token of its own has no sessions, and is asked at each read
      this.#hasSessions = false;
      return () => {};
    }
  }

  /** Learn who reads, before anything is read. */
  async #identify({ again = false } = {}) {
    if (this.#hasSessions) {
      if (again || this.#user !== undefined) return;
      this.#known ??= this.#who().finally(() => (this.#known = null));
      const user = await withTimeout(() => this.#known, AbortSignal.timeout(READ_MS));
      if (this.#user === undefined) this.#becomes(user);
    } else this.#becomes(await this.#who());
  }

  /** Whose token the next call carries; an outage where it cannot be renewed. */
  async #who() {
    try {
      return subjectOf(await tokenOf(this.#client));
    } catch {
      throw new QueueError({}, 0);
    }
  }

  async #isStill(user) {
    try {
      return (await withTimeout(() => this.#who(), AbortSignal.timeout(READ_MS))) === user;
    } catch {
      return false; // the token could not be renewed
    }
  }

  /** Whether it is another one who reads from here on: nothing of what was read stays. */
  #becomes(user) {
    const was = this.#user;
    this.#user = user;
    if (was === undefined || was === user) return false;
    this.#epoch += 1;
    for (const follower of [...this.#followers]) follower.empty();
    this.#socket.renew();
    this.wake(); // a moment later: who signs out leaves the page, and reads nothing as no one
    return true;
  }

  #failed(problem, ask) {
    const wasAway = this.isAway;
    this.#problem = problem;
    if (wasAway) return;
    for (const follower of this.#followers) follower.notify();
    this.#doubt(ask);
  }

  /** A read hangs or had no answer: it is asked for all until one comes, also beside one that hangs. */
  #doubt(ask) {
    this.#socket.prove();
    if (this.#question) return;
    this.#question = ask;
    this.#askAgain();
  }

  #askAgain() {
    const wait = AWAY_MS[this.#tries++] ?? MAX_AWAY_MS;
    this.#asking = later(
      () => {
        this.#askAgain();
        this.#ask(this.#question);
      },
      wait * (0.7 + 0.3 * Math.random()),
    );
  }

  async #ask(question) {
    const asked = new AbortController();
    // what hangs holds its connection; a server that is only slow gets two more
    if (this.#asked.push(asked) > MAX_ASKED) this.#asked.shift().abort();
    try {
      await question(asked.signal);
    } catch (error) {
      if (isAway(error)) return;
    }
    if (question !== this.#question) return;
    this.#hung.stop(); // each is asked again at once
    this.#hung = createStop();
    this.#answered();
  }

  #answered() {
    if (!this.#question) return;
    clearTimeout(this.#asking);
    const wasAway = this.isAway;
    this.#problem = this.#question = null;
    this.#tries = 0;
    for (const asked of this.#asked.splice(0)) asked.abort();
    if (!wasAway) return;
    this.#socket.nudge();
    for (const follower of this.#followers)
      later(() => follower.refresh(), Math.random() * SPREAD_MS);
  }
}

const isAway = (error) => error?.isAway ?? error?.status === 0;

/** What reads race with, so that they can be ended. */
function createStop() {
  const aborter = new AbortController();
  const { signal } = aborter;
  const promise = new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(HUNG), { once: true });
  });
  promise.catch(() => {});
  return { promise, signal, stop: () => aborter.abort() };
}

/** The token that a client's calls carry; null for none. Throws when it cannot be renewed. */
async function tokenOf(client) {
  if (typeof client.accessToken === "function") return client.accessToken();
  const { data, error } = await client.auth.getSession();
  if (error) throw error;
  return data.session?.access_token ?? null;
}

/** Whose token it is; null where it says nothing of that. */
function subjectOf(token) {
  try {
    const claims = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(atob(claims)).sub ?? null;
  } catch {
    return null;
  }
}
