// Joins the private Realtime topics that one supabase-js client follows. All followers of a topic
// share one Realtime channel. supabase-js replaces a dead socket and joins its channels again, but
// only after a long time. The class `Socket` reconnects sooner.

import { inSchema } from "./client.js";
import { eventsOf } from "./messages.js";
import { isHidden, later, sleep } from "./page.js";
import { ANOTHER_USER } from "./session.js";

// Text that Realtime sends when messages from the database begin to arrive, which is after
// Realtime's reply to the join of the topic.
const READY = "Replication connection established";
const LINGER_MS = 1500; // ms for which a channel stays joined after its last listener
const REJOIN_MS = [500, 1000, 2000, 5000, 10_000]; // pauses after the server closed a channel
const MAX_REJOIN_MS = 30_000;
const REPLY_MS = 2500; // timeout of a heartbeat's reply
const TICK_MS = 2500; // ms between two checks of the socket
const MAX_SLOW_TICKS = 3;
const CLOSING_MS = 40;
const FOLLOW_TIMEOUT_MS = 3000;
const FOLLOW_RENEWAL_SECONDS = 60;
const FOLLOW_RETRY_SECONDS = 3; // short: a topic without followers gets no messages
const SLEPT_MS = 15_000;
// A topic is busy if it delivers more than `BUSY_MESSAGES` in `BUSY_MS`. The socket then leaves the
// topic, and reads the topic's position every `POSITION_MS`. The pauses until it joins the topic
// again double while the topic is busy.
const BUSY_MESSAGES = 30;
const BUSY_MS = 10_000;
const POSITION_MS = 12_000;
const PAUSE_MS = 60_000;
const MAX_PAUSE_MS = 600_000;
const RENEW_MS = 100;

export class Socket {
  #client;
  #session;
  #entries = new Map();
  #authorizing = null;
  #timer = null;
  #slowTicks = 0; // consecutive checks that found the socket still connecting

  /**
   * `session.authorize` sets the token of the socket. The socket calls `session.wake` after the
   * page was asleep, and `session.onIdle` after it has left its last topic.
   */
  constructor(client, session) {
    this.#client = client;
    this.#session = session;
  }

  /**
   * Follow a private topic. The socket joins the topic, joins it again after failures, and
   * regularly renews the registration of this client as a follower. If all listeners of a topic
   * have `isPausable`, the socket leaves the topic while it is busy.
   */
  join(topic, listener) {
    const entry = this.#entries.get(topic) ?? this.#create(topic, listener.schema);
    clearTimeout(entry.linger);
    entry.listeners.add(listener);
    if (!listener.isPausable) this.#resume(entry);
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

  /** Leave every Realtime channel, and join the channels again as the new user. */
  renew() {
    for (const entry of this.#entries.values()) {
      entry.id = crypto.randomUUID();
      entry.failures = 0;
      this.#leave(entry, ANOTHER_USER);
      // Join the channel only after a moment, because supabase-js may still hold its lock. A person
      // who signs out usually leaves the page in the meantime, so that the channel need not be
      // joined again.
      entry.timer = later(() => this.#openChannel(entry), RENEW_MS);
    }
  }

  /**
   * Reconnect and join all topics again without a pause, because the network has returned or a new
   * token has arrived.
   */
  nudge() {
    const { realtime } = this.#client;
    const isConnected = realtime.isConnected();
    if (isConnected) this.check();
    else if (realtime.isConnecting() && this.#slowTicks > 0) this.#reconnect();
    else this.#connect();
    for (const entry of this.#entries.values()) {
      if (this.#resume(entry)) continue;
      // if the page was asleep, supabase-js does not always notice that the socket is lost
      const isStale = isConnected ? entry.channel?.state === "errored" : entry.isJoined;
      if (isStale) this.#leave(entry, "stale");
      if (isStale || entry.timer) this.#openChannel(entry);
    }
  }

  /**
   * Leave a topic and join the topic again, because no messages arrive or because the server
   * rejected a read.
   */
  rejoin(topic, reason) {
    const entry = this.#entries.get(topic);
    if (entry?.isJoined) this.#rejoinLater(entry, reason);
  }

  /** Send a heartbeat to Realtime. If no reply arrives, supabase-js replaces the socket. */
  check() {
    const { realtime } = this.#client;
    if (!realtime.isConnected()) return void this.nudge();
    if (!realtime.pendingHeartbeatRef) realtime.sendHeartbeat();
    const ref = realtime.pendingHeartbeatRef;
    // send a second heartbeat if no reply has arrived, because supabase-js then closes the socket
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
      isPaused: false,
      pauseMs: 0,
      pausedAt: 0,
      resumedAt: 0,
      messages: 0, // number of messages since `countedAt`
      countedAt: 0,
      failures: 0,
      attempts: 0,
      timer: null,
      following: null,
    };
    if (this.#entries.size === 0) this.#watch();
    this.#entries.set(topic, entry);
    this.#openChannel(entry);
    return entry;
  }

  /**
   * Register this client as a follower of a topic. Supabase's plan limits how many messages the
   * project may deliver, so the database counts the followers of each topic. If the database
   * withholds messages of a job, the database notifies the job's followers. If the registration
   * gets no response, register again soon.
   */
  async #follow(entry) {
    const { id } = entry;
    const { data, status } = await inSchema(this.#client, entry.schema)
      .rpc("follow_topic", { p_topic: entry.topic, p_follower_id: id })
      .abortSignal(AbortSignal.timeout(FOLLOW_TIMEOUT_MS));
    if (this.#entries.get(entry.topic) !== entry || entry.id !== id) return;
    // multiply the time between checks, because each listener of the topic reads separately
    const checkMs = 1000 * (data?.check_seconds ?? 0) * entry.listeners.size;
    const { seq } = entry.terms;
    if (data) Object.assign(entry.terms, { checkMs, seq: data.seq });
    if (entry.isPaused) return void this.#onPosition(entry, data?.seq === seq);
    for (const listener of [...entry.listeners]) listener.renewed?.();
    clearTimeout(entry.renewal);
    const isRefused = status >= 400 && status < 500;
    const seconds =
      data?.again_seconds ?? (isRefused ? FOLLOW_RENEWAL_SECONDS : FOLLOW_RETRY_SECONDS);
    entry.renewal = later(() => this.#follow(entry), 1000 * seconds);
  }

  async #openChannel(entry) {
    clearTimeout(entry.timer);
    entry.timer = null;
    const attempt = (entry.attempts += 1);
    const { realtime } = this.#client;
    try {
      await (this.#authorizing ??= this.#session.authorize().finally(() => {
        this.#authorizing = null;
      }));
      while (realtime.isDisconnecting()) await sleep(CLOSING_MS); // connect() would be ignored
      if (attempt === entry.attempts) this.#subscribe(entry);
    } catch {
      // try again later, because there is no token to join the topic, or the page may not open a
      // socket
      if (attempt === entry.attempts) this.#rejoinLater(entry, "unavailable");
    }
  }

  #subscribe(entry) {
    const channel = this.#client.channel(entry.topic, {
      config: { private: true, broadcast: { replication_ready: true } },
    });
    entry.channel = channel;
    entry.following = this.#follow(entry);
    // A Realtime message contains the name of its topic, but does not identify the join. Ignore a
    // message that arrives before the reply to this join, because the message was sent to the
    // previous channel, which may have belonged to another user.
    let isOurs = false;
    channel.on("broadcast", { event: "*" }, (message) => {
      if (entry.channel !== channel || !isOurs) return;
      if (this.#isBusy(entry)) return void this.#pause(entry);
      // one Realtime message contains all events for the topic that an SQL statement has created,
      // in order
      for (const payload of eventsOf(message.payload))
        for (const listener of [...entry.listeners]) listener.message(payload);
    });
    channel.on("system", {}, ({ message }) => {
      if (entry.channel !== channel || !isOurs || message !== READY) return;
      entry.isReady = true;
      if (entry.isJoined) this.#onJoined(entry);
    });
    channel.subscribe((status, error) => {
      if (entry.channel !== channel) return;
      isOurs = status === "SUBSCRIBED";
      if (isOurs) {
        entry.following ??= this.#follow(entry);
        entry.following.then(() => isOurs && entry.channel === channel && this.#onJoined(entry));
      } else if (status === "CLOSED") this.#rejoinLater(entry, status);
      else this.#onLost(entry, error?.message ?? status); // supabase-js rejoins the channel
    });
  }

  /**
   * Return whether a topic has more messages than its listeners need, because they only read after
   * a message. Listeners of a hidden page need none.
   */
  #isBusy(entry) {
    if (Date.now() > entry.countedAt + BUSY_MS)
      Object.assign(entry, { messages: 0, countedAt: Date.now() });
    entry.messages += 1;
    const isPausable = [...entry.listeners].every((listener) => listener.isPausable);
    return isPausable && (isHidden() || entry.messages > BUSY_MESSAGES);
  }

  /**
   * Leave the channel of a busy topic. Its listeners remain joined, and read every few seconds if
   * the position of the topic has changed.
   */
  #pause(entry) {
    const { channel, pauseMs, resumedAt } = entry;
    const isAgain = Date.now() < resumedAt + 2 * BUSY_MS;
    entry.pauseMs = isAgain ? Math.min(2 * pauseMs, MAX_PAUSE_MS) : PAUSE_MS;
    Object.assign(entry, { channel: null, isPaused: true, pausedAt: Date.now() });
    this.#client.removeChannel(channel);
    this.#readPosition(entry);
  }

  #readPosition(entry) {
    clearTimeout(entry.renewal);
    // a page that becomes visible again calls `nudge`
    entry.renewal = later(() => isHidden() || this.#follow(entry), POSITION_MS);
  }

  #onPosition(entry, isSame) {
    if (isSame || Date.now() > entry.pausedAt + entry.pauseMs) return void this.#resume(entry);
    for (const listener of [...entry.listeners]) listener.joined(entry.terms);
    this.#readPosition(entry);
  }

  /** Join a paused topic again. Return whether the topic was paused. */
  #resume(entry) {
    if (!entry.isPaused) return false;
    entry.isPaused = entry.isReady = false;
    entry.resumedAt = entry.countedAt = Date.now();
    entry.messages = BUSY_MESSAGES / 2; // it is probably still busy
    this.#openChannel(entry);
    return true;
  }

  #onJoined(entry) {
    entry.isJoined = true;
    entry.failures = 0;
    for (const listener of [...entry.listeners]) listener.joined(entry.terms, !entry.isReady);
  }

  #onLost(entry, reason) {
    entry.isJoined = entry.isReady = false;
    entry.following = null;
    for (const listener of [...entry.listeners]) listener.lost(reason);
  }

  #leave(entry, reason) {
    const { channel } = entry;
    clearTimeout(entry.timer);
    entry.attempts += 1;
    entry.channel = null;
    entry.isPaused = false;
    if (channel) this.#client.removeChannel(channel);
    this.#onLost(entry, reason);
  }

  #rejoinLater(entry, reason) {
    this.#leave(entry, reason);
    const wait = REJOIN_MS[entry.failures++] ?? MAX_REJOIN_MS;
    entry.timer = later(() => this.#openChannel(entry), wait * (0.75 + Math.random() / 2));
  }

  #close(entry) {
    clearTimeout(entry.linger); // otherwise the timer would close the next entry of the topic
    clearTimeout(entry.renewal);
    this.#entries.delete(entry.topic);
    this.#leave(entry, "closed");
    if (this.#entries.size > 0) return;
    this.#session.onIdle();
    clearTimeout(this.#timer);
    // Disconnect the socket, because otherwise supabase-js would open another socket after a
    // heartbeat without a reply, even if there are no channels.
    const { realtime } = this.#client;
    const disconnect = () => realtime.getChannels().length === 0 && realtime.disconnect();
    this.#timer = later(disconnect, 2 * realtime.heartbeatIntervalMs);
  }

  /** Check every few seconds whether the page was asleep, and whether the socket is connected. */
  #watch() {
    clearTimeout(this.#timer);
    const due = Date.now() + TICK_MS;
    this.#timer = later(() => {
      this.#watch();
      const { realtime } = this.#client;
      this.#slowTicks = realtime.isConnecting() ? this.#slowTicks + 1 : 0;
      if (Date.now() - due > SLEPT_MS) this.#session.wake();
      else if (this.#slowTicks > MAX_SLOW_TICKS) this.#reconnect();
      else if (!isHidden()) this.#connect(); // earlier than supabase-js reconnects
    }, TICK_MS);
  }

  /** Connect the socket, unless it is connected or an attempt to connect is in flight. */
  #connect() {
    const { realtime } = this.#client;
    if (!realtime.isConnected() && !realtime.isConnecting()) this.#reconnect();
  }

  /**
   * End the attempt to connect, which the browser would continue for minutes, and begin a new
   * attempt. Disconnect a closed socket too, because `connect` keeps it, and supabase-js replaces it
   * only after up to ten seconds.
   */
  async #reconnect() {
    const { realtime } = this.#client;
    this.#slowTicks = 0;
    await realtime.disconnect();
    try {
      realtime.connect();
    } catch {
      // the page is not allowed to open a socket, so the followers only read
    }
  }
}
