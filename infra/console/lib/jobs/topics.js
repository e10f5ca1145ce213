// Private Realtime topics over one supabase-js client: one channel each, shared and counted.

import { later } from "./follower.js";
import { inTime, READ_MS, within } from "./client.js";
import { eventsOf } from "./sequence.js";

// What Realtime says once the database's messages arrive: it answers a join before that.
const READY = "Replication connection established";
const LINGER_MS = 1500; // a page that leaves and comes back finds its channel still joined
const REOPEN_MS = [500, 1000, 2000, 5000, 10_000];
const REOPEN_MS_MOST = 30_000;
const FOLLOW_TIMEOUT_MS = 3000; // a server that does not answer is not waited for
const FOLLOW_AGAIN_SECONDS = 60;

const hubs = new WeakMap();

/** The topics of a client; the same object for the same client. */
export function topicsOf(client) {
  let topics = hubs.get(client);
  if (!topics) hubs.set(client, (topics = new Topics(client)));
  return topics;
}

export class Topics {
  #client;
  #entries = new Map();
  #leaving = new Map();

  constructor(client) {
    this.#client = client;
  }

  /** Listen to a private topic. Joining, rejoining and fresh tokens are cared for. */
  join(topic, listener, schema) {
    const entry = this.#entries.get(topic) ?? this.#made(topic, schema);
    clearTimeout(entry.linger);
    entry.listeners.add(listener);
    if (entry.joined)
      queueMicrotask(
        () =>
          entry.listeners.has(listener) &&
          entry.joined &&
          listener.joined(entry.terms, !entry.ready),
      );
    return () => {
      if (entry.listeners.delete(listener) && entry.listeners.size === 0)
        entry.linger = setTimeout(() => this.#close(entry), LINGER_MS);
    };
  }

  #made(topic, schema) {
    const entry = {
      topic,
      schema,
      id: crypto.randomUUID(),
      listeners: new Set(),
      channel: null,
      joined: false,
      ready: false,
      terms: { checkMs: 0 },
      failures: 0,
    };
    this.#entries.set(topic, entry);
    this.#open(entry);
    return entry;
  }

  /** Push the present token and reconnect now instead of at the end of a back-off. */
  async nudge() {
    const { realtime } = this.#client;
    await this.#authorize();
    if (!realtime.isConnected()) realtime.connect();
  }

  /** The socket looks alive but delivers nothing: open another; every channel joins again. */
  async reconnect() {
    const { realtime } = this.#client;
    for (const entry of this.#entries.values()) this.#lost(entry, "silent");
    await realtime.disconnect();
    await this.nudge();
  }

  async #authorize() {
    try {
      await inTime(() => this.#client.realtime.setAuth(), AbortSignal.timeout(READ_MS));
    } catch (error) {
      // the session could not be read or refreshed: joins are refused until it can
      for (const entry of this.#entries.values()) this.#lost(entry, String(error));
    }
  }

  /**
   * Say that this client listens: each delivery counts as a message of the project's plan, and a
   * job's followers are informed of what was held back. Without an answer it is merely not counted.
   */
  async #follow(entry) {
    const { data } = await within(this.#client, entry.schema)
      .rpc("follow_topic", { p_topic: entry.topic, p_follower_id: entry.id })
      .abortSignal(AbortSignal.timeout(FOLLOW_TIMEOUT_MS));
    if (this.#entries.get(entry.topic) !== entry) return;
    // each of the listeners reads by itself
    const checkMs = 1000 * (data?.check_seconds ?? 0) * entry.listeners.size;
    if (data) entry.terms.checkMs = checkMs;
    clearTimeout(entry.renewal);
    const seconds = data?.again_seconds ?? FOLLOW_AGAIN_SECONDS;
    entry.renewal = later(() => this.#follow(entry), 1000 * seconds);
  }

  async #open(entry) {
    await this.#authorize();
    await this.#leaving.get(entry.topic); // the client would hand out the channel that is leaving
    if (this.#entries.get(entry.topic) !== entry) return;
    const channel = this.#client.channel(entry.topic, {
      config: { private: true, broadcast: { replication_ready: true } },
    });
    entry.channel = channel;
    const following = this.#follow(entry);
    channel.on("broadcast", { event: "*" }, (message) => {
      // one message carries all events of a statement for this topic, in order
      for (const payload of eventsOf(message.payload))
        for (const listener of [...entry.listeners]) listener.message(payload);
    });
    channel.on("system", {}, ({ message }) => {
      if (entry.channel !== channel || message !== READY) return;
      entry.ready = true;
      if (entry.joined) this.#joined(entry);
    });
    channel.subscribe((status, error) => {
      if (entry.channel !== channel) return;
      if (status === "SUBSCRIBED")
        following.then(() => entry.channel === channel && this.#joined(entry));
      else if (status === "CLOSED") this.#reopen(entry);
      else {
        this.#lost(entry, error?.message ?? status);
        // the client joins again by itself; a token that went stale meanwhile must not come along
        if (/token|jwt|unauthori[sz]ed|expired/i.test(error?.message ?? "")) this.#authorize();
      }
    });
  }

  #joined(entry) {
    entry.joined = true;
    entry.failures = 0;
    for (const listener of [...entry.listeners]) listener.joined(entry.terms, !entry.ready);
  }

  #lost(entry, reason) {
    entry.joined = entry.ready = false;
    for (const listener of [...entry.listeners]) listener.lost(reason);
  }

  #reopen(entry) {
    entry.channel = null;
    this.#lost(entry, "closed");
    const wait = REOPEN_MS[entry.failures++] ?? REOPEN_MS_MOST;
    entry.timer = setTimeout(() => this.#open(entry), wait * (0.75 + Math.random() / 2));
  }

  #close(entry) {
    clearTimeout(entry.timer);
    clearTimeout(entry.renewal);
    this.#entries.delete(entry.topic);
    const { channel } = entry;
    entry.channel = null;
    if (!channel) return;
    const gone = this.#client
      .removeChannel(channel)
      .finally(() => this.#leaving.delete(entry.topic));
    this.#leaving.set(entry.topic, gone);
  }
}
