// The private Realtime topics of one supabase-js client: one channel each, shared and counted.
// supabase-js replaces a dead socket and joins its channels again; what it does late is done here.

import { inSchema } from "./client.js";
import { isHidden, later, sleep } from "./page.js";
import { eventsOf } from "./sequence.js";

// What Realtime says once the database's messages arrive: it answers a join before that.
const READY = "Replication connection established";
const LINGER_MS = 1500; // a page that leaves and comes back finds its channel still joined
const ENTER_MS = [500, 1000, 2000, 5000, 10_000]; // after the server closed a channel
const MAX_ENTER_MS = 30_000;
const REPLY_MS = 2500; // a heartbeat that takes longer has no reply
const TICK_MS = 5000;
const MAX_SLOW_TICKS = 2;
const CLOSING_MS = 40;
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
  #authorizing = null;
  #timer = null;
  #slowTicks = 0; // in a row at which the socket was still connecting

  /**
   * Of a client; `session` says who joins (`authorize`), and learns when a page has slept (`wake`) and
   * when no topic is left (`rest`).
   */
  constructor(client, session) {
    this.#client = client;
    this.#session = session;
  }

  /** Listen to a private topic. Joining, rejoining and fresh tokens are cared for. */
  join(topic, listener, schema) {
    const entry = this.#entries.get(topic) ?? this.#create(topic, schema);
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
      this.#leave(entry, ANOTHER_USER);
      // supabase-js may hold its lock; who signs out leaves first
      entry.timer = later(() => this.#enter(entry), RENEW_MS);
    }
  }

  /** Do now what a pause would do later: the network is back, or a token is new. */
  nudge() {
    const { realtime } = this.#client;
    const isConnected = realtime.isConnected();
    if (isConnected) this.prove();
    else if (realtime.isConnecting() && this.#slowTicks > 0) this.#reconnect();
    else this.#connect();
    for (const entry of this.#entries.values()) {
      // supabase-js does not notice every socket that a sleeping page has lost
      const isStale = isConnected ? entry.channel?.state === "errored" : entry.isJoined;
      if (isStale) this.#leave(entry, "stale");
      if (isStale || entry.timer) this.#enter(entry);
    }
  }

  /** A topic that brings nothing, or whose reads are refused: leave it, join it again. */
  reenter(topic, reason) {
    const entry = this.#entries.get(topic);
    if (entry?.isJoined) this.#reenterLater(entry, reason);
  }

  /** Ask whether the socket lives. supabase-js leaves a dead one, and opens the next. */
  prove() {
    const { realtime } = this.#client;
    if (!realtime.isConnected()) return void this.nudge();
    if (!realtime.pendingHeartbeatRef) realtime.sendHeartbeat();
    const ref = realtime.pendingHeartbeatRef;
    // a second heartbeat before the first one's reply ends the wait for it
    if (ref)
      later(() => realtime.pendingHeartbeatRef === ref && realtime.sendHeartbeat(), REPLY_MS);
  }

  #create(topic, schema) {
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
      attempts: 0,
      timer: null,
      following: null,
    };
    if (this.#entries.size === 0) this.#watch();
    this.#entries.set(topic, entry);
    this.#enter(entry);
    return entry;
  }

  /**
   * Say that this client listens: each delivery counts as a message of the project's plan, and a
   * job's followers are informed of what was held back. Without an answer it is said again soon.
   */
  async #follow(entry) {
    const { id } = entry;
    const { data, status } = await inSchema(this.#client, entry.schema)
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
    const attempt = (entry.attempts += 1);
    const { realtime } = this.#client;
    try {
      await (this.#authorizing ??= this.#session.authorize().finally(() => {
        this.#authorizing = null;
      }));
      while (realtime.isDisconnecting()) await sleep(CLOSING_MS); // supabase-js would not connect
      if (attempt === entry.attempts) this.#subscribe(entry);
    } catch {
      // no token can be had, without which it would be refused; or no socket may be opened
      if (attempt === entry.attempts) this.#reenterLater(entry, "unavailable");
    }
  }

  #subscribe(entry) {
    const channel = this.#client.channel(entry.topic, {
      config: { private: true, broadcast: { replication_ready: true } },
    });
    entry.channel = channel;
    entry.following = this.#follow(entry);
    // a message names its topic alone: what comes before this join is answered was sent for the
    // one before, which may have been another user's
    let isOurs = false;
    channel.on("broadcast", { event: "*" }, (message) => {
      if (entry.channel !== channel || !isOurs) return;
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
      if (isOurs) {
        entry.following ??= this.#follow(entry);
        entry.following.then(() => isOurs && entry.channel === channel && this.#joined(entry));
      } else if (status === "CLOSED") this.#reenterLater(entry, status);
      else this.#lost(entry, error?.message ?? status); // supabase-js joins it again
    });
  }

  #joined(entry) {
    entry.isJoined = true;
    entry.failures = 0;
    for (const listener of [...entry.listeners]) listener.joined(entry.terms, !entry.isReady);
  }

  #lost(entry, reason) {
    entry.isJoined = entry.isReady = false;
    entry.following = null;
    for (const listener of [...entry.listeners]) listener.lost(reason);
  }

  #leave(entry, reason) {
    const { channel } = entry;
    clearTimeout(entry.timer);
    entry.attempts += 1;
    entry.channel = null;
    if (channel) this.#client.removeChannel(channel);
    this.#lost(entry, reason);
  }

  #reenterLater(entry, reason) {
    this.#leave(entry, reason);
    const wait = ENTER_MS[entry.failures++] ?? MAX_ENTER_MS;
    entry.timer = later(() => this.#enter(entry), wait * (0.75 + Math.random() / 2));
  }

  #close(entry) {
    clearTimeout(entry.linger); // or it would close the next entry of its topic
    clearTimeout(entry.renewal);
    this.#entries.delete(entry.topic);
    this.#leave(entry, "closed");
    if (this.#entries.size > 0) return;
    this.#session.rest();
    clearTimeout(this.#timer);
    // a heartbeat without a reply opens another socket, although no channel is left
    const { realtime } = this.#client;
    const disconnect = () => realtime.getChannels().length === 0 && realtime.disconnect();
    this.#timer = later(disconnect, 2 * realtime.heartbeatIntervalMs);
  }

  /** Every few seconds: whether this page has slept, and whether its socket is there. */
  #watch() {
    clearTimeout(this.#timer);
    const due = Date.now() + TICK_MS;
    this.#timer = later(() => {
      this.#watch();
      const { realtime } = this.#client;
      this.#slowTicks = realtime.isConnecting() ? this.#slowTicks + 1 : 0;
      if (Date.now() - due > SLEPT_MS) this.#session.wake();
      else if (this.#slowTicks > MAX_SLOW_TICKS) this.#reconnect();
      else if (!isHidden()) this.#connect(); // sooner than supabase-js would by itself
    }, TICK_MS);
  }

  /** Give up an attempt to connect, which a browser continues for minutes. */
  async #reconnect() {
    this.#slowTicks = 0;
    await this.#client.realtime.disconnect();
    this.#connect();
  }

  #connect() {
    try {
      this.#client.realtime.connect();
    } catch {
      // no socket may be opened here: reads go on
    }
  }
}
