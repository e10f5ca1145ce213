// The private Realtime topics of one supabase-js client: one channel each, shared and counted, over
// a socket that is proved, left when it is dead, and opened again. No channel's own word is trusted:
// a client whose socket was not closed by its server leaves channels `joined` on the next one.

import { within } from "./client.js";
import { isHidden, later, sleep } from "./page.js";
import { eventsOf } from "./sequence.js";

// What Realtime says once the database's messages arrive: it answers a join before that.
const READY = "Replication connection established";
const LINGER_MS = 1500; // a page that leaves and comes back finds its channel still joined
const ENTER_MS = [500, 1000, 2000, 5000, 10_000]; // after a join was refused
const ENTER_MS_MOST = 30_000;
const OPEN_MS = [300, 1000, 2000]; // after a socket could not be opened
const OPEN_MS_MOST = 3000; // a page that is seen is live within five seconds of any outage
const OPEN_MS_HIDDEN = 30_000;
const CONNECT_MS = [4000, 8000]; // in turns: the second for slow networks
const HURRY_MS = 500; // an older attempt is given up where others are answered
const DISCONNECT_MS = 2500; // a dead socket does not answer its close
const PROVE_MS = 2500; // a heartbeat that takes longer has no answer
const PROVE_EVERY_MS = 5000; // unless it brought something
const LOOK_MS = 40; // no version of supabase-js says when its socket opens
const FOLLOW_TIMEOUT_MS = 3000; // a server that does not answer is not waited for
const FOLLOW_AGAIN_SECONDS = 60;
const FOLLOW_RETRY_SECONDS = 3; // a job's topic gets nothing while no one follows it
const SLEPT_MS = 15_000;
const RENEW_MS = 100;

/** Why a topic was left that is joined again in the name of someone else. */
export const ANOTHER_USER = "another user";

export class Socket {
  #client;
  #session;
  #entries = new Map();
  #leaving = new Map();
  #isSpent = false; // an attempt was made, or a socket lost: the client keeps its remains
  #isOpening = false;
  #isProving = false;
  #hurry = () => {};
  #authorizing = null;
  #receivedAt = -Infinity;
  #tick = null;

  /**
   * Of a client; `session` says who joins (`authorize`), and learns when a page has slept (`wake`) and
   * when no topic is left (`rest`).
   */
  constructor(client, session) {
    this.#client = client;
    this.#session = session;
    const { realtime } = client;
    if (isOld(realtime))
      realtime.stateChangeCallbacks.message.push(() => (this.#receivedAt = Date.now()));
  }

  /** When a message came last. */
  get receivedAt() {
    return this.#receivedAt;
  }

  /** Listen to a private topic. Joining, rejoining and fresh tokens are cared for. */
  join(topic, listener, schema) {
    const entry = this.#entries.get(topic) ?? this.#made(topic, schema);
    clearTimeout(entry.linger);
    entry.listeners.add(listener);
    if (entry.isJoined)
      queueMicrotask(() => {
        if (entry.listeners.has(listener) && entry.isJoined)
          listener.joined(entry.terms, !entry.isReady);
      });
    return () => {
      if (entry.listeners.delete(listener) && entry.listeners.size === 0)
        entry.linger = setTimeout(() => this.#close(entry), LINGER_MS);
    };
  }

  /** Someone else reads from here on: every channel is left, and joined in the new one's name. */
  renew() {
    for (const entry of this.#entries.values()) {
      entry.id = crypto.randomUUID();
      entry.failures = 0;
      this.#lose(entry, ANOTHER_USER);
      clearTimeout(entry.timer);
      // supabase-js may hold its lock; who signs out leaves first
      entry.timer = later(() => this.#enter(entry), RENEW_MS);
    }
  }

  /** Do now what a pause would do later: the network is back, or a token is new. */
  nudge() {
    this.#hurry();
    if (!this.#client.realtime.isConnected()) return void this.#open();
    this.prove();
    for (const entry of this.#entries.values()) if (entry.timer) this.#enter(entry);
  }

  /** A topic that brings nothing, or whose reads are refused: leave it, join it again. */
  reenter(topic, reason) {
    const entry = this.#entries.get(topic);
    if (!entry?.isJoined) return;
    this.#lose(entry, reason);
    this.#enterLater(entry);
  }

  /** Ask whether the socket lives; a dead one is left, and another opened. */
  async prove() {
    const { realtime } = this.#client;
    if (this.#isProving || !realtime.isConnected()) return;
    this.#isProving = true;
    const receivedAt = this.#receivedAt;
    if (isOld(realtime))
      realtime.push({ topic: "phoenix", event: "heartbeat", payload: {}, ref: "m" });
    else if (!realtime.pendingHeartbeatRef) realtime.sendHeartbeat();
    const asked = realtime.pendingHeartbeatRef;
    const isWaiting = () =>
      realtime.isConnected() &&
      this.#receivedAt === receivedAt &&
      (isOld(realtime) || (asked && realtime.pendingHeartbeatRef === asked));
    const until = Date.now() + PROVE_MS;
    while (isWaiting() && Date.now() < until) await sleep(LOOK_MS);
    this.#isProving = false;
    if (isWaiting()) this.#abandon();
  }

  /** Nothing comes over the socket: we leave, and the page's own channels err as by its heartbeat. */
  #abandon() {
    const { realtime } = this.#client;
    if (isOld(realtime)) realtime._triggerChanError?.();
    else realtime.sendHeartbeat(); // a second one without an answer
    for (const entry of this.#entries.values()) this.#lose(entry, "dead");
    this.#open({ isDead: true });
  }

  #made(topic, schema) {
    const entry = {
      topic,
      schema,
      id: crypto.randomUUID(),
      listeners: new Set(),
      channel: null,
      isJoined: false,
      isReady: false,
      terms: { checkMs: 0 },
      failures: 0,
      timer: null,
      turn: 0,
    };
    if (this.#entries.size === 0) {
      clearTimeout(this.#tick);
      this.#tick = this.#watch();
    }
    this.#entries.set(topic, entry);
    this.#enter(entry);
    return entry;
  }

  /** One socket after another until one is open; then every topic is joined. */
  async #open({ isDead = false } = {}) {
    if (this.#isOpening) return;
    this.#isOpening = true;
    const { realtime } = this.#client;
    const isShut = (tries) => (isDead && tries === 0) || !realtime.isConnected();
    for (let tries = 0; this.#entries.size > 0 && isShut(tries); tries += 1) {
      const began = Date.now();
      const isHurried = await this.#attempt(CONNECT_MS[tries % 2]);
      const pause = began + (OPEN_MS[tries] ?? OPEN_MS_MOST) - Date.now();
      if (!isHurried && !realtime.isConnected()) await this.#pause(pause);
    }
    this.#isOpening = false;
    if (this.#entries.size === 0) this.#rest();
    for (const entry of this.#entries.values()) if (!entry.channel) this.#enter(entry);
  }

  /** Open a socket, within so many ms; whether that was given up since another may do better. */
  async #attempt(ms) {
    const { realtime } = this.#client;
    try {
      // what a client has lost it keeps, and opens no other beside it
      if (this.#isSpent) await Promise.race([realtime.disconnect(), sleep(DISCONNECT_MS)]);
      this.#isSpent = true;
      realtime.connect();
    } catch {
      return false; // this runtime has no WebSocket: reads go on
    }
    const began = Date.now();
    let isHurried = false;
    this.#hurry = () => (isHurried = Date.now() > began + HURRY_MS);
    const isConnecting = () => realtime.connectionState() === "connecting" && !isHurried;
    while (isConnecting() && Date.now() < began + ms) await sleep(LOOK_MS);
    return isHurried;
  }

  /** Wait, less where a moment comes at which all may be well again. */
  #pause(ms) {
    const wait = Math.max(0, isHidden() ? OPEN_MS_HIDDEN : ms) * (0.7 + 0.3 * Math.random());
    return new Promise((then) => {
      this.#hurry = then;
      later(then, wait);
    });
  }

  /**
   * Say that this client listens: each delivery counts as a message of the project's plan, and a
   * job's followers are informed of what was held back. Without an answer it is said again soon.
   */
  async #follow(entry) {
    const { id } = entry;
    const { data, status } = await within(this.#client, entry.schema)
      .rpc("follow_topic", { p_topic: entry.topic, p_follower_id: id })
      .abortSignal(AbortSignal.timeout(FOLLOW_TIMEOUT_MS));
    if (this.#entries.get(entry.topic) !== entry || entry.id !== id) return;
    // each of the listeners reads by itself
    const checkMs = 1000 * (data?.check_seconds ?? 0) * entry.listeners.size;
    if (data) entry.terms.checkMs = checkMs;
    clearTimeout(entry.renewal);
    const isRefused = status >= 400 && status < 500;
    const seconds =
      data?.again_seconds ?? (isRefused ? FOLLOW_AGAIN_SECONDS : FOLLOW_RETRY_SECONDS);
    entry.renewal = later(() => this.#follow(entry), 1000 * seconds);
  }

  async #enter(entry) {
    clearTimeout(entry.timer);
    entry.timer = null;
    const turn = (entry.turn += 1);
    const isOver = () => entry.turn !== turn || this.#entries.get(entry.topic) !== entry;
    try {
      await (this.#authorizing ??= this.#session.authorize().finally(() => {
        this.#authorizing = null;
      }));
    } catch {
      // no token can be had: in the name of no one it would be refused
      if (!isOver()) this.#enterLater(entry);
      return;
    }
    await this.#leaving.get(entry.topic); // the client would hand out the channel that is leaving
    if (isOver()) return;
    if (entry.listeners.size === 0) return void this.#close(entry);
    if (this.#client.realtime.isConnected()) this.#subscribe(entry);
    else this.#open();
  }

  #subscribe(entry) {
    const channel = this.#client.channel(entry.topic, {
      config: { private: true, broadcast: { replication_ready: true } },
    });
    entry.channel = channel;
    const following = this.#follow(entry);
    // a message names its topic alone: what comes before this join is answered was sent for the
    // one before, which may have been another user's
    let isOurs = false;
    channel.on("broadcast", { event: "*" }, (message) => {
      if (entry.channel !== channel) return;
      this.#receivedAt = Date.now();
      if (!isOurs) return;
      // one message carries all events of a statement for this topic, in order
      for (const payload of eventsOf(message.payload))
        for (const listener of [...entry.listeners]) listener.message(payload);
    });
    channel.on("system", {}, ({ message }) => {
      if (entry.channel !== channel || !isOurs || message !== READY) return;
      entry.isReady = true;
      if (entry.isJoined) this.#joined(entry);
    });
    channel.subscribe((status, error) => {
      if (entry.channel !== channel) return;
      isOurs = status === "SUBSCRIBED";
      if (isOurs) following.then(() => entry.channel === channel && this.#joined(entry));
      else this.#fallen(entry, error?.message ?? status);
    });
  }

  #joined(entry) {
    entry.isJoined = true;
    entry.failures = 0;
    for (const listener of [...entry.listeners]) listener.joined(entry.terms, !entry.isReady);
  }

  /** A channel was refused or cut: with its socket, as is known a moment later, or alone. */
  #fallen(entry, reason) {
    this.#lose(entry, reason);
    setTimeout(() => {
      if (this.#entries.get(entry.topic) !== entry || entry.channel || entry.timer) return;
      if (this.#client.realtime.isConnected()) this.#enterLater(entry);
      else this.#open();
    });
  }

  #lose(entry, reason) {
    const { channel } = entry;
    entry.turn += 1;
    entry.channel = null;
    entry.isJoined = entry.isReady = false;
    if (channel) this.#leave(entry.topic, channel);
    for (const listener of [...entry.listeners]) listener.lost(reason);
  }

  #enterLater(entry) {
    clearTimeout(entry.timer);
    const wait = ENTER_MS[entry.failures++] ?? ENTER_MS_MOST;
    entry.timer = later(() => this.#enter(entry), wait * (0.75 + Math.random() / 2));
  }

  #leave(topic, channel) {
    const gone = this.#client.removeChannel(channel).finally(() => {
      if (this.#leaving.get(topic) === gone) this.#leaving.delete(topic);
    });
    this.#leaving.set(topic, gone);
  }

  #close(entry) {
    clearTimeout(entry.linger); // or it would close the next entry of its topic
    clearTimeout(entry.timer);
    clearTimeout(entry.renewal);
    this.#entries.delete(entry.topic);
    this.#lose(entry, "closed");
    if (this.#entries.size > 0) return;
    this.#session.rest();
    this.#rest();
  }

  /**
   * No one follows anything: no socket is tried for ever, and none is kept that was opened too late
   * for every channel. A client that sent a heartbeat opens one more when its interval has passed
   * without an answer, whatever was said since: until then it is looked at again.
   */
  #rest(looks) {
    clearTimeout(this.#tick);
    const { realtime } = this.#client;
    looks ??= 2 + Math.ceil(realtime.heartbeatIntervalMs / PROVE_EVERY_MS);
    if (realtime.getChannels().length === 0) realtime.disconnect();
    this.#tick = looks > 0 ? later(() => this.#rest(looks - 1), PROVE_EVERY_MS) : null;
  }

  /** From time to time: whether a quiet socket lives, and whether this page has slept. */
  #watch() {
    const due = Date.now() + PROVE_EVERY_MS;
    return later(() => {
      this.#tick = this.#watch();
      if (Date.now() - due > SLEPT_MS) this.#session.wake();
      else if (!isHidden() && Date.now() - this.#receivedAt > PROVE_EVERY_MS) this.prove();
    }, PROVE_EVERY_MS);
  }
}

/**
 * Whether it is a supabase-js before 2.100, whose heartbeat is a clock: one of ours between its own
 * and the answer would be taken for a second one without an answer. So we send what it does not see.
 */
const isOld = (realtime) => Object.hasOwn(realtime, "stateChangeCallbacks");
