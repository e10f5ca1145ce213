// Follows one subject. It joins the subject's Realtime topic, then reads the changes that it may
// have missed, and reports its freshness. Subclasses read and interpret messages. The session
// handles changes of the user, the socket and outages.

import { later, nextFrame, notify } from "./page.js";
import { HUNG, OUTDATED } from "./session.js";
import { ANOTHER_USER } from "./socket.js";

/** Values of `Follower.freshness`. */
export const FRESHNESS = ["live", "catching-up", "polling", "offline"];

const DEFAULTS = {
  pollingInterval: 3000, // ms between reads while Realtime is unavailable
  // maximum milliseconds until a read checks that no message was missed. Infinity: only if `seq`
  // has moved.
  silence: 30_000,
  firstSilence: 1500, // minimum ms until that read, because Realtime drops messages silently
  // milliseconds after a join within which Realtime reports that messages arrive. Realtime gives up
  // after 60,000 ms, and a server from before 2026 sends no report.
  readyTimeout: 65_000,
  reorder: 100, // ms to wait for a missing event before it is read
  joinTimeout: 5000, // ms after which a first join counts as failed
};
const MAX_POLL_MS = 30_000;
const SLOW_MS = 5000; // a read that takes longer may have hung
const WITHHELD_MS = 750; // an earlier read does not show that no more messages are withheld
const READ_FACTOR = 5; // a pause lasts at least this many reads, so that a loaded server can rest
const CHECK_DIVISOR = 20; // a check is due after the time since the last change divided by this
const SPREAD_MS = 300; // spreads the reads of followers that are woken together
// If the socket has delivered a message within this time and now misses one, the socket is probably
// not dead. Realtime drops messages without a notice when the rate of the project's plan is
// exceeded. Realtime averages the rate over a minute, so after a second missed message the follower
// reads for a minute. A single missed message may only be late.
const LOSSY_MS = 60_000;
const QUIET_MS = 4500; // ms without changes after which a suspect channel is trusted again
const SILENT = "silent";

// Next states when the topic is joined or lost. TOPIC applies to most states, and SUSPECT to the
// states of a silent topic.
const TOPIC = { joined: "syncing", deaf: "deaf", lost: "polling" };
const SUSPECT = { joined: "silent", lost: "polling" };

/**
 * States of a follower.
 *
 * - `freshness`: the value that the watch reports.
 * - `reads`: `poll` or `often`. Without `reads`, the follower reads only to check that no message
 *   was missed.
 * - `on`: the next state for each event. An event that is not listed changes nothing.
 *
 * Events:
 *
 * - `joined`: the topic is joined and messages arrive.
 * - `deaf`: the topic is joined, but messages do not arrive yet.
 * - `lost`: the topic was lost.
 * - `left`: the topic was left because it was silent.
 * - `late`: the first join took too long.
 * - `early`: a message arrived before the first read after the join ended.
 * - `message`: a message arrived later.
 * - `ended`: a read succeeded.
 * - `quiet`: a read found no change.
 * - `failed`: a read failed.
 * - `check`: a check begins.
 * - `withheld`: the server withholds messages.
 * - `missed`: a check found a change that no message delivered.
 */
const STATES = {
  // the first join has not succeeded or failed yet
  joining: { freshness: "catching-up", reads: "poll", on: { ...TOPIC, late: "polling" } },
  // Realtime is unavailable
  polling: { freshness: "polling", reads: "poll", on: TOPIC },
  // the topic is joined, but messages do not arrive yet
  deaf: { freshness: "catching-up", reads: "often", on: { ...TOPIC, quiet: "live" } },
  // messages arrive, and a read must return the changes from before the join
  syncing: { freshness: "catching-up", on: { ...TOPIC, ended: "live", withheld: "lossy" } },
  live: {
    freshness: "live",
    on: { ...TOPIC, failed: "syncing", check: "checking", withheld: "lossy", missed: "silent" },
  },
  // a read checks that no message was missed
  checking: {
    freshness: "live",
    on: { ...TOPIC, failed: "syncing", ended: "live", withheld: "lossy" },
  },
  // the server withholds messages to stay within the plan, or Realtime drops them, so reads replace
  // the messages
  lossy: { freshness: "catching-up", reads: "often", on: { ...TOPIC, quiet: "live" } },
  // messages did not arrive, so reads replace them until a message arrives or nothing changes
  silent: {
    freshness: "polling",
    reads: "poll",
    on: { ...SUSPECT, left: "rejoining", early: "syncing", message: "live", quiet: "live" },
  },
  // a silent topic was left and joined again, and messages of the new channel do not arrive yet
  rejoining: { freshness: "polling", reads: "poll", on: SUSPECT },
  closed: { freshness: "offline", on: {} },
};
const NOT_JOINED = ["joining", "polling", "rejoining", "closed"];

export class Follower {
  #session;
  #topic;
  #options;
  #leave = () => {};
  #state = "joining";
  #joins = 0;
  #isSynced = false; // whether a read that began after the last join has ended
  #until = -Infinity; // reads that begin earlier do not end the state
  #reading = null;
  #isReadRequested = false;
  #isSlow = false; // whether the read in flight is slow
  #failures = 0;
  #error = null;
  #readAt = 0; // when the last read ended
  #readMs = 0; // duration of the last read in ms
  #receivedAt = -Infinity; // when the last message since the join arrived
  #changedAt = -Infinity;
  #missedAt = -Infinity; // when the last missed message since the join was noticed
  #gapAt = Infinity; // when to read events that are known to be missing
  #checkAt = Infinity; // when to check that no other message was missed
  #terms = { checkMs: 0 };
  #seq; // position of the topic before the last read
  #timer = null;
  #listeners = new Set();
  #notifying = false;

  constructor(session, topic, options = {}) {
    this.#session = session;
    this.#topic = topic;
    const defined = Object.entries(options).filter(([, value]) => value !== undefined);
    this.#options = { ...DEFAULTS, ...Object.fromEntries(defined) };
  }

  /**
   * Read all changes since the known state by calling `read`. If this function throws, the read is
   * repeated.
   */
  async catchUp() {}

  /** Discard all rows, because the user changed or lost access. */
  clear() {}

  /** Apply a message of the Realtime topic. */
  receive(_payload) {}

  /** Whether an event is known to be missing. */
  get hasGap() {
    return false;
  }

  /**
   * Whether messages are numbered, so that each message shows whether an earlier message was lost.
   */
  get isNumbered() {
    return false;
  }

  /**
   * Called when a read has returned every change up to now, so that the socket need not deliver
   * these changes.
   */
  onSynced() {}

  /** Whether the socket has delivered every change that reads returned since `onSynced`. */
  get receivedAll() {
    return true;
  }

  /**
   * Whether the subject may change at any time, so that the follower must read if no message
   * arrives for a while.
   */
  get isLive() {
    return true;
  }

  /** Maximum milliseconds until a read checks that no message was missed. */
  get silence() {
    return this.#options.silence;
  }

  /** Called once, when the watch is closed. */
  onClose() {}

  /**
   * - `live`: the topic is joined, messages arrive, and a read after the join has returned all
   *   earlier changes.
   * - `catching-up`: a read is in flight, an event is missing, or messages do not arrive yet, are
   *   withheld to stay within the plan, or are dropped above it.
   * - `polling`: Realtime is unavailable, and the follower reads at intervals.
   * - `offline`: Realtime and reads fail.
   */
  get freshness() {
    const { freshness } = STATES[this.#state];
    if (this.#session.isAway) return this.#isJoined ? "catching-up" : "offline";
    if (this.#isSlow || (freshness === "live" && this.hasGap)) return "catching-up";
    return freshness;
  }

  /** Error of the last read, or null. */
  get error() {
    return this.#error ?? this.#session.problem;
  }

  get closed() {
    return this.#state === "closed";
  }

  start() {
    const listener = {
      joined: (terms, isDeaf) => this.#onJoined(terms, isDeaf),
      lost: (reason) => this.#onLost(reason),
      message: (payload) => this.#onMessage(payload),
      renewed: () => this.#onRenewed(),
    };
    const { schema, joinTimeout } = this.#options;
    this.#leave = this.#session.follow(this, { topic: this.#topic, listener, schema });
    later(() => {
      this.#move("late");
      this.notify();
    }, joinTimeout);
    this.refresh();
  }

  /**
   * Return the response of the query that `ask` makes. The function throws `OUTDATED` if the user
   * changed in the meantime.
   */
  async read(ask) {
    const response = await this.#session.read(ask);
    if (this.closed) throw OUTDATED;
    return response;
  }

  /** Discard all rows, because the user changed or signed out. The session then calls `refresh`. */
  reset() {
    this.clear();
    this.#onUnsynced();
    this.#error = null;
    this.#announce();
  }

  /** Discard all rows and rejoin the topic, because the user has lost access. */
  revoke() {
    this.clear();
    this.#announce();
    this.#session.rejoin(this.#topic, "refused");
  }

  /** Read now. Resolves when a read that began after this call has ended. */
  refresh() {
    this.#isReadRequested = true;
    this.#reading ??= this.#readAll().finally(() => (this.#reading = null));
    return this.#reading;
  }

  /** Call `listener` after changes of the state, at most once per frame. */
  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  notify() {
    if (this.#notifying || this.closed) return;
    this.#notifying = true;
    nextFrame(() => {
      this.#notifying = false;
      this.#announce();
    });
  }

  #announce() {
    for (const listener of [...this.#listeners]) notify(listener);
  }

  close() {
    if (this.closed) return;
    this.#state = "closed";
    clearTimeout(this.#timer);
    this.#leave();
    this.#listeners.clear();
    this.onClose();
  }

  get #isJoined() {
    return !NOT_JOINED.includes(this.#state);
  }

  #move(event) {
    this.#state = STATES[this.#state].on[event] ?? this.#state;
  }

  #onJoined(terms, isDeaf = false) {
    this.#move(isDeaf ? "deaf" : "joined");
    this.#terms = terms;
    this.#joins += 1;
    this.#isSynced = false;
    this.#receivedAt = this.#missedAt = -Infinity;
    this.#changedAt = Date.now();
    this.#until = Date.now() + (isDeaf ? this.#options.readyTimeout : QUIET_MS);
    // The read starts after the join, so that every commit is contained in the read or in a later
    // message. If messages do not arrive yet, the follower continues to read.
    isDeaf ? this.#arm() : this.refresh();
    this.notify();
  }

  /**
   * The server has sent the topic's current position. If the position has changed since the last
   * read, read to check whether a message was missed.
   */
  #onRenewed() {
    if (!this.#isSynced || this.#reading || this.#terms.seq === this.#seq) return;
    this.#move("check");
    this.refresh();
  }

  #onLost(reason) {
    const isNew = this.#isJoined || this.#state === "joining";
    this.#move(reason === SILENT ? "left" : "lost");
    if (isNew && reason !== ANOTHER_USER) this.refresh();
    this.notify();
  }

  #onMessage(payload) {
    if (this.closed) return;
    // this message shows that messages arrive
    if (["deaf", "rejoining"].includes(this.#state)) this.#onJoined(this.#terms);
    this.#move(this.#isSynced ? "message" : "early");
    this.#receivedAt = this.#changedAt = Date.now();
    const checkAt = Date.now() + this.#checkPause;
    // Frequent messages must not postpone the check, unless messages have numbers that show a
    // missing message.
    this.#checkAt = this.isNumbered ? checkAt : Math.min(this.#checkAt, checkAt);
    if (payload?.look_again === true) return void this.#onWithheld();
    this.receive(payload);
    if (this.hasGap) this.#gapAt = Math.min(this.#gapAt, Date.now() + this.#options.reorder);
    this.#arm();
    this.notify();
  }

  /** The server withholds messages. Until a read finds no change, reads replace the messages. */
  #onWithheld() {
    this.#move("withheld");
    this.#until = Math.max(this.#until, Date.now() + WITHHELD_MS);
    later(() => this.refresh(), Math.random() * SPREAD_MS);
    this.notify();
  }

  /**
   * Milliseconds until the next check. If Realtime drops a message, a check finds the missing
   * change within a twentieth of the time since the last change, or later if the project has many
   * followers.
   */
  get #checkPause() {
    const share = (Date.now() - this.#changedAt) / CHECK_DIVISOR;
    const pause = Math.max(this.#options.firstSilence, this.#terms.checkMs, share);
    return Math.max(Math.min(pause, this.silence), READ_FACTOR * this.#readMs);
  }

  async #readAll() {
    while (this.#isReadRequested && !this.closed) {
      this.#isReadRequested = false;
      const joins = this.#joins;
      const { seq } = this.#terms;
      const began = Date.now();
      const slow = later(() => {
        this.#isSlow = true;
        this.notify();
      }, SLOW_MS);
      try {
        const hasChanges = await this.catchUp();
        this.#readMs = Date.now() - began;
        this.#failures = 0;
        this.#error = null;
        this.#seq = seq;
        if (hasChanges) this.#changedAt = Date.now();
        if (joins === this.#joins) this.#onRead(!hasChanges && began > this.#until);
      } catch (error) {
        this.#onFailure(error);
      }
      clearTimeout(slow);
      this.#isSlow = false;
      this.notify();
    }
    this.#readAt = Date.now();
    this.#gapAt = this.hasGap ? this.#readAt + this.#options.reorder : Infinity;
    this.#checkAt = this.#readAt + this.#checkPause;
    this.#arm();
  }

  #onUnsynced() {
    this.#isSynced = false;
    this.#move("failed");
  }

  /** Handle the end of a read that began after the latest join. */
  #onRead(isQuiet) {
    if (isQuiet) this.#move("quiet");
    else if (this.#state === "silent")
      this.#until = Math.max(this.#until, this.#changedAt + QUIET_MS);
    const isChecked = this.#state === "checking";
    // only the read of a check is compared with the messages of the socket
    if (!this.#isSynced || !(isChecked || this.#state === "silent")) this.onSynced();
    this.#isSynced = true;
    this.#move("ended");
    if (isChecked) this.#verifyIn(this.#options.firstSilence);
  }

  #onFailure(error) {
    if (error === OUTDATED) return;
    if (error === HUNG) return void (this.#isReadRequested = true);
    const isRefused = error?.isRefusal && !this.#error?.isRefusal;
    this.#failures += 1;
    this.#error = error;
    if (error?.status !== 429) this.#onUnsynced(); // a busy server will respond later
    if (isRefused) this.revoke();
  }

  /** Time of the next read if no one requests one, in milliseconds since 1970. */
  #dueAt() {
    const { pollingInterval, firstSilence } = this.#options;
    if (this.#session.isAway) return Infinity; // the session probes for all followers
    const { reads } = STATES[this.#state];
    if (this.#failures > 0 || reads === "poll") {
      const wait = pollingInterval * (this.isLive ? 1 : 5) * 1.6 ** this.#failures;
      return this.#readAt + Math.min(wait, MAX_POLL_MS) * (0.85 + Math.random() * 0.3);
    }
    if (reads === "often") return this.#readAt + Math.max(firstSilence, READ_FACTOR * this.#readMs);
    const isChecked = this.isLive && this.silence < Infinity;
    return this.#gapAt < Infinity || !isChecked ? this.#gapAt : this.#checkAt;
  }

  #arm() {
    clearTimeout(this.#timer);
    const due = this.#dueAt();
    if (this.closed || due === Infinity) return;
    this.#timer = later(() => this.#onTimer(), Math.max(0, due - Date.now()));
  }

  #onTimer() {
    if (this.#reading) return; // the end of the read sets the timer again
    if (this.#failures === 0 && !this.hasGap) this.#move("check");
    this.refresh();
  }

  /** After `ms`, check whether the socket has delivered the changes that reads returned. */
  #verifyIn(ms) {
    const joins = this.#joins;
    later(() => joins === this.#joins && !this.receivedAll && this.#onMissed(), ms);
  }

  /**
   * The socket did not deliver a change that a read returned. Either Realtime drops messages, or
   * the socket is dead.
   */
  #onMissed() {
    if (!this.#isJoined) return;
    this.#session.checkSocket();
    if (Date.now() < this.#receivedAt + LOSSY_MS) {
      const isSecond = Date.now() < this.#missedAt + LOSSY_MS;
      this.#move("withheld");
      this.#until = Date.now() + (isSecond ? LOSSY_MS : QUIET_MS);
      this.#missedAt = Date.now();
      this.onSynced(); // the socket will not deliver the dropped messages
    } else if (this.#state === "silent") {
      this.#session.rejoin(this.#topic, SILENT);
    } else {
      this.#move("missed"); // the first message may only be late, and a new channel would lose it
      this.#until = Date.now() + QUIET_MS;
      this.#verifyIn(this.#options.pollingInterval);
    }
    this.notify();
    this.#arm();
  }
}
