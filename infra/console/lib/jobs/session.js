// State that all watches of one supabase-js client share: the user, the socket, and whether reads
// get a response. If the user changes or loses access, the watches discard all rows. During an
// outage, the watches keep their rows.

import { withTimeout, QueueError, READ_MS } from "./client.js";
import { later, onWake, sleep } from "./page.js";

const HUNG_MS = 3000; // a read that takes longer may never get a response
const LOAD_MS = 5000; // pause before modules that could not be loaded are loaded again
const SETTLE_MS = 50; // a page that becomes visible again fires several events

/**
 * Error of a read during which the user changed, so that the response belongs to another user.
 * After this error, the session requests a new read.
 */
export const OUTDATED = new Error("read for another user");
/** Reason for leaving a topic and joining it again: another user has signed in. */
export const ANOTHER_USER = "another user";

const sessions = new WeakMap();

/** Return the session of a supabase-js client. Each client has one session. */
export function sessionOf(client) {
  let session = sessions.get(client);
  if (!session) sessions.set(client, (session = new Session(client)));
  return session;
}

class Session {
  #client;
  // `#socket` and `#outage` are null until their modules are loaded. Until these modules are
  // loaded, followers only read.
  #socket = null;
  #outage = null;
  #loading = null;
  #followers = new Set();
  #user; // undefined until the user is known
  #epoch = 0;
  #hasSessions = false; // true if supabase-js has Auth sessions and reports their changes
  #userRequest = null;
  #hung = new AbortController(); // aborts the reads in flight
  #wakeTimer = null;
  #listening = null; // AbortController that ends the subscriptions to events

  constructor(client) {
    this.#client = client;
  }

  /** Is true if reads currently get no response. */
  get isAway() {
    return this.problem !== null;
  }

  /** Error of the current outage, or null if reads get responses. */
  get problem() {
    return this.#outage?.problem ?? null;
  }

  /**
   * Follow a Realtime topic until the caller calls the returned function. `listener.exists` is a
   * promise that resolves when the topic exists, or undefined if the topic exists already.
   */
  follow(follower, topic, listener) {
    if (!this.#listening) this.#start();
    this.#followers.add(follower);
    this.#loading ??= this.#load();
    let leave;
    Promise.all([this.#loading, listener.exists]).then(() => {
      if (this.#followers.has(follower)) leave = this.#socket.join(topic, listener);
    });
    return () => {
      this.#followers.delete(follower);
      if (leave) leave();
      else if (this.#followers.size === 0) this.#stop();
    };
  }

  /**
   * Load the modules socket.js and outage.js, which a page needs only after its first read. Until
   * these modules are loaded, followers poll.
   */
  async #load() {
    const client = this.#client;
    const authorize = () => inTime(() => client.realtime.setAuth());
    // After the last follower has closed, its Realtime channel stays joined with the user's rights
    // for a short time. Until the channel is left, the session listens for a change of the user.
    const onIdle = () => this.#stop();
    while (true) {
      try {
        const { Outage, Socket } = await import("./live.js");
        const socket = new Socket(client, { authorize, onIdle, wake: () => this.wake() });
        this.#outage = new Outage(this.#followers, socket, (reason) => {
          this.#hung.abort(reason);
          this.#hung = new AbortController();
        });
        this.#socket = socket;
        return;
      } catch {
        await sleep(LOAD_MS);
      }
    }
  }

  /**
   * Return the response of `ask(signal)`. Throw `OUTDATED` if the user changed, and `HUNG` if the
   * read gets no response while other reads get a response. If the server rejects the read, but the
   * token of the read was not the user's token, treat the rejection as an outage.
   */
  async read(ask) {
    let epoch = this.#epoch;
    const hung = later(() => this.#outage?.probe(ask), HUNG_MS);
    try {
      await this.#checkUser();
      epoch = this.#epoch;
      const response = await withTimeout(ask, this.#hung.signal);
      await this.#checkUser({ again: true });
      if (epoch !== this.#epoch) throw OUTDATED;
      this.#outage?.end();
      return response;
    } catch (error) {
      if (epoch !== this.#epoch) throw OUTDATED;
      const isTheirs = !error?.isRefusal || (await this.#isCurrentUser(this.#user));
      if (epoch !== this.#epoch) throw OUTDATED;
      const problem = isTheirs ? error : new QueueError({}, 0);
      if (isAway(problem)) this.#outage?.begin(problem, ask);
      throw problem;
    } finally {
      clearTimeout(hung);
    }
  }

  /** Check the socket, because a topic has missed a message. */
  checkSocket() {
    this.#socket?.check();
  }

  rejoin(topic, reason) {
    this.#socket?.rejoin(topic, reason);
  }

  /**
   * Reconnect the socket and read all subjects again, because the page is visible again, the
   * network has returned, or a new token has arrived.
   */
  wake() {
    clearTimeout(this.#wakeTimer);
    this.#wakeTimer = later(() => {
      this.#socket?.nudge();
      for (const follower of this.#followers) follower.refresh();
    }, SETTLE_MS);
  }

  #start() {
    this.#listening = new AbortController();
    const { signal } = this.#listening;
    onWake(() => this.wake(), signal);
    this.#user = undefined;
    this.#listen(signal);
  }

  #stop() {
    this.#listening.abort();
    this.#listening = null;
    this.#outage?.stop();
    clearTimeout(this.#wakeTimer);
    this.#userRequest = null;
  }

  #listen(signal) {
    try {
      const { data } = this.#client.auth.onAuthStateChange((event, session) => {
        const isAnother = this.#setUser(session?.user?.id ?? null);
        if (!isAnother && event !== "INITIAL_SESSION") this.wake(); // the token may be new
      });
      this.#hasSessions = true;
      signal.addEventListener("abort", () => data.subscription.unsubscribe());
    } catch {
      // A supabase-js client with its own access token has no sessions of Supabase Auth, so each
      // read checks whether the token's user has changed.
      this.#hasSessions = false;
    }
  }

  /** Determine the current user. The session calls this method before and after each read. */
  async #checkUser({ again = false } = {}) {
    if (this.#hasSessions) {
      if (again || this.#user !== undefined) return;
      this.#userRequest ??= this.#readUserId().finally(() => (this.#userRequest = null));
      const user = await this.#userRequest;
      if (this.#user === undefined) this.#setUser(user);
    } else this.#setUser(await this.#readUserId());
  }

  /**
   * Return the user id in the token of the next call. Throw the error of an outage if supabase-js
   * cannot renew the token.
   */
  async #readUserId() {
    try {
      return subjectOf(await inTime(() => tokenOf(this.#client)));
    } catch {
      throw new QueueError({}, 0);
    }
  }

  async #isCurrentUser(user) {
    try {
      return (await this.#readUserId()) === user;
    } catch {
      return false; // the token was not renewed
    }
  }

  /** Set the current user. If the user has changed, discard all followers' rows and return true. */
  #setUser(user) {
    const was = this.#user;
    this.#user = user;
    if (was === undefined || was === user) return false;
    this.#epoch += 1;
    for (const follower of [...this.#followers]) follower.reset();
    this.#socket?.renew();
    this.wake(); // after a delay, because a person who signs out leaves the page
    return true;
  }
}

export const isAway = (error) => error?.isAway ?? error?.status === 0;
const inTime = (run) => withTimeout(run, AbortSignal.timeout(READ_MS));

/**
 * Return the access token of the supabase-js client, or null if the client has none. Throw an error
 * if supabase-js cannot renew the token.
 */
async function tokenOf(client) {
  if (typeof client.accessToken === "function") return client.accessToken();
  const { data, error } = await client.auth.getSession();
  if (error) throw error;
  return data.session?.access_token ?? null;
}

/** Return the user's id in an access token, or null if the token contains no id. */
function subjectOf(token) {
  try {
    const claims = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(atob(claims)).sub ?? null;
  } catch {
    return null;
  }
}
