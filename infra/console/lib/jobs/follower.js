// Follows one subject: a job, a list of jobs, a workspace or a session. The class `Follower` joins
// the Realtime topic of the subject, reads the changes that happened before the join, and reports
// how fresh its data is. Subclasses of `Follower` read rows and interpret messages. The module
// session.js handles changes of the user, the socket and outages.

import { later, nextFrame, notify } from "./page.js";
import { ANOTHER_USER, OUTDATED } from "./session.js";

/** Values of `Follower.freshness`. */
export const FRESHNESS = ["live", "catching-up", "polling", "offline"];

const DEFAULTS = {
  pollingInterval: 3000, // ms between reads while Realtime is unavailable
  // Maximum milliseconds until a read checks that no message was missed. With `Infinity`, the
  // follower reads only if the topic's position (`seq`) has changed.
  silence: 30_000,
  firstSilence: 1500, // minimum ms until a check, because Realtime drops messages without notice
  // Time in milliseconds after a join, within which Realtime must report that messages arrive.
  // `readyTimeout` is longer than 60,000 ms, after which Realtime gives up. A Realtime server from
  // before 2026 sends no report.
  readyTimeout: 65_000,
  reorder: 100, // ms to wait for a missing event before it is read
  joinTimeout: 5000, // ms after which a first join counts as failed
};
const MAX_POLL_MS = 30_000;
const SLOW_MS = 5000; // a read that takes longer may never get a response
const WITHHELD_MS = 750; // ms in which the server may still withhold messages
const READ_FACTOR = 5; // a pause is at least 5 times as long as a read, to spare a busy server
const CHECK_DIVISOR = 20; // a check comes after 1/20 of the time since the last change
const SPREAD_MS = 300; // followers that are woken together read within this time
// Milliseconds for which a delivered message shows that the socket is probably not dead, although a
// later message is missing. Realtime drops messages without a notice if a project sends more
// messages per second than its plan allows. Realtime averages the rate of messages over a minute,
// so after a second missed message the follower reads for a minute. A first missed message may only
// be late.
const LOSSY_MS = 60_000;
const QUIET_MS = 4500; // ms without changes after which a silent topic counts as live again
const SILENT = "silent";

// Next states of a follower when its topic is joined or lost. `TOPIC` contains the next states of
// most states. `SUSPECT` contains the next states of states in which the topic has delivered no
// messages.
const TOPIC = { joined: "syncing", deaf: "deaf", lost: "polling" };
const SUSPECT = { joined: "silent", lost: "polling" };

/**
 * States of a follower.
 *
 * - `freshness`: the value that the follower reports while it is in the state.
 * - `reads`: how often the follower reads, `poll` or `often`. In a state without `reads`, the
 *   follower reads only to check that no message was missed.
 * - `on`: the next state for each event. An event that `on` does not list does not change the
 *   state.
 *
 * Events:
 *
 * - `joined`: the topic is joined and messages arrive.
 * - `deaf`: the topic is joined, but messages do not arrive yet.
 * - `lost`: the topic was lost.
 * - `left`: the follower left the topic because no messages arrived.
 * - `late`: the first join took too long.
 * - `early`: a message arrived before the end of the first read after the join.
 * - `message`: a message arrived after the first read had ended.
 * - `ended`: a read succeeded.
 * - `quiet`: a read found no change.
 * - `failed`: a read failed.
 * - `check`: a read that checks for missed messages begins.
 * - `withheld`: the server reports that it withholds messages.
 * - `missed`: a read found a change that no message had delivered.
 */
const STATES = {
  // the first join of the topic is in flight
  joining: { freshness: "catching-up", reads: "poll", on: { ...TOPIC, late: "polling" } },
  // Realtime is unavailable, so the follower polls the database
  polling: { freshness: "polling", reads: "poll", on: TOPIC },
  // the topic is joined, but messages do not arrive yet
  deaf: { freshness: "catching-up", reads: "often", on: { ...TOPIC, quiet: "live" } },
  // messages arrive, and the follower must read the changes from before the join
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
  // the server withholds messages to stay within the message rate of Supabase's plan, or Realtime
  // drops messages, so the follower reads often instead
  lossy: { freshness: "catching-up", reads: "often", on: { ...TOPIC, quiet: "live" } },
  // messages did not arrive, so the follower reads until a message arrives or reads find no change
  silent: {
    freshness: "polling",
    reads: "poll",
    on: { ...SUSPECT, left: "rejoining", early: "syncing", message: "live", quiet: "live" },
  },
  // the follower left the topic because no messages arrived, and joins the topic again, but
  // messages do not arrive yet
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
  #isSynced = false; // true after the end of a read that began after the last join
  #until = -Infinity; // a read that begins before this time does not end the state
  #reading = null;
  #isReadRequested = false;
  #isSlow = false; // true if the read in flight is slow
  #failures = 0;
  #error = null;
  #readAt = 0; // time at which the last read ended
  #readMs = 0; // duration of the last read in ms
  #receivedAt = -Infinity; // time of the last message since the join
  #changedAt = -Infinity;
  #missedAt = -Infinity; // time at which a missed message was last noticed since the join
  #gapAt = Infinity; // time at which to read events that are known to be missing
  #checkAt = Infinity; // time at which to check that no other message was missed
  #terms = { checkMs: 0 };
  #seq; // position (`seq`) of the topic before the last read
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
   * Read all changes since the known state, by calls of `read`. If `catchUp` throws an error, the
   * follower calls `catchUp` again.
   */
  async catchUp() {}

  /** Discard all rows, because another user signed in or the user lost access. */
  clear() {}

  /** Apply a message of the subject's Realtime topic. */
  receive(_payload) {}

  /** Is true if an event with a lower number than a received event is missing. */
  get hasGap() {
    return false;
  }

  /**
   * Is true if messages are numbered, so that the number of a message shows whether an earlier
   * message was lost.
   */
  get isNumbered() {
    return false;
  }

  /**
   * The follower calls `onSynced` after a read has returned every change up to now, so that the
   * socket need not deliver these changes.
   */
  onSynced() {}

  /**
   * Is true if the socket has delivered every change that reads have returned since the last call
   * of `onSynced`.
   */
  get receivedAll() {
    return true;
  }

  /**
   * Is true if the subject may still change, so that the follower must read if no message arrives
   * for a while.
   */
  get isLive() {
    return true;
  }

  /** Maximum milliseconds until a read checks that no message was missed. */
  get silence() {
    return this.#options.silence;
  }

  /** The follower calls `onClose` once, when the page closes the watch. */
  onClose() {}

  /**
   * How fresh the follower's data is.
   *
   * - `live`: the topic is joined, messages arrive, and a read after the join has returned all
   *   earlier changes.
   * - `catching-up`: a read is in flight, an event is missing, or messages do not arrive. Messages
   *   are missing if the server withholds messages to stay within the message rate of Supabase's
   *   plan, or if Realtime drops messages above that rate.
   * - `polling`: Realtime is unavailable, and the follower reads at intervals.
   * - `offline`: Realtime is unavailable and reads fail.
   */
  get freshness() {
    const { freshness } = STATES[this.#state];
    if (this.#session.isAway) return this.#isJoined ? "catching-up" : "offline";
    if (this.#isSlow || (freshness === "live" && this.hasGap)) return "catching-up";
    return freshness;
  }

  /** Error of the last read, or null if the last read succeeded. */
  get error() {
    return this.#error ?? this.#session.problem;
  }

  get closed() {
    return this.#state === "closed";
  }

  start() {
    const listener = {
      ...this.#options,
      joined: (terms, isDeaf) => this.#onJoined(terms, isDeaf),
      lost: (reason) => this.#onLost(reason),
      message: (payload) => this.#onMessage(payload),
      renewed: () => this.#onRenewed(),
    };
    this.#leave = this.#session.follow(this, this.#topic, listener);
    later(() => {
      this.#move("late");
      this.notify();
    }, this.#options.joinTimeout);
    this.refresh();
  }

  /**
   * Return the response of the query that `ask` makes. Throw `OUTDATED` if the user changed while
   * the query was in flight.
   */
  async read(ask) {
    const response = await this.#session.read(ask);
    if (this.closed) throw OUTDATED;
    return response;
  }

  /**
   * Discard all rows, because the user changed or signed out. The session calls `refresh` after
   * `reset`.
   */
  reset() {
    this.clear();
    this.#onUnsynced();
    this.#error = null;
    this.#announce();
  }

  /** Discard all rows and join the topic again, because the user has lost access. */
  revoke() {
    this.clear();
    this.#announce();
    this.#session.rejoin(this.#topic, "refused");
  }

  /** Read now. The returned promise resolves at the end of a read that began after this call. */
  refresh() {
    this.#isReadRequested = true;
    this.#reading ??= this.#readAll().finally(() => (this.#reading = null));
    return this.#reading;
  }

  /** Call `listener` after changes of the follower's state, at most once per frame. */
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
    // Start a read after the join, so that every committed change is in the read or in a later
    // message. If messages do not arrive yet, continue to read at intervals.
    isDeaf ? this.#arm() : this.refresh();
    this.notify();
  }

  /**
   * Handle the current position of the topic, which the server has sent. If the position has
   * changed since the last read, read to find out whether a message was missed.
   */
  #onRenewed() {
    if (!this.#isSynced || this.#terms.seq === this.#seq) return;
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
    // the message shows that Realtime delivers the topic's messages
    if (["deaf", "rejoining"].includes(this.#state)) this.#onJoined(this.#terms);
    this.#move(this.#isSynced ? "message" : "early");
    this.#receivedAt = this.#changedAt = Date.now();
    const checkAt = Date.now() + this.#checkPause;
    // Frequent messages must not postpone the check for missed messages, except if messages are
    // numbered, because then the numbers show a missing message.
    this.#checkAt = this.isNumbered ? checkAt : Math.min(this.#checkAt, checkAt);
    if (payload?.look_again) return void this.#onWithheld();
    this.receive(payload);
    if (this.hasGap) this.#gapAt = Math.min(this.#gapAt, Date.now() + this.#options.reorder);
    this.#arm();
    this.notify();
  }

  /**
   * Handle the server's notice that it withholds messages: read often, until a read finds no
   * change.
   */
  #onWithheld() {
    this.#move("withheld");
    this.#until = Math.max(this.#until, Date.now() + WITHHELD_MS);
    later(() => this.refresh(), Math.random() * SPREAD_MS);
    this.notify();
  }

  /**
   * Milliseconds until the next check for missed messages. If Realtime drops a message, the check
   * finds the change after at most a twentieth of the time since the last change. In a project with
   * many followers, the pause before the check is longer.
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
        // the position that arrived during the read may belong to a later change
        this.#isReadRequested ||= seq !== this.#terms.seq;
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

  /** Handle the end of a read that began after the latest join of the topic. */
  #onRead(isQuiet) {
    if (isQuiet) this.#move("quiet");
    else if (this.#state === "silent")
      this.#until = Math.max(this.#until, this.#changedAt + QUIET_MS);
    const isChecked = this.#state === "checking";
    // compare only a read that checks for missed messages with the messages of the socket
    if (!this.#isSynced || !(isChecked || this.#state === "silent")) this.onSynced();
    this.#isSynced = true;
    this.#move("ended");
    if (isChecked) this.#verifyIn(this.#options.firstSilence);
  }

  #onFailure(error) {
    if (error === OUTDATED) return;
    if (error?.isHung) return void (this.#isReadRequested = true);
    const isRefused = error?.isRefusal && !this.#error?.isRefusal;
    this.#failures += 1;
    this.#error = error;
    if (error?.status !== 429) this.#onUnsynced(); // 429: a busy server will respond later
    if (isRefused) this.revoke();
  }

  /** Time of the next read in milliseconds since 1970, if no one requests an earlier read. */
  #dueAt() {
    const { pollingInterval, firstSilence } = this.#options;
    if (this.#session.isAway) return Infinity; // in an outage, the session probes for all
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
    const wait = Math.max(this.#dueAt() - Date.now(), 0); // Node warns about negative times
    if (this.closed || wait === Infinity) return;
    this.#timer = later(() => this.#onTimer(), wait);
  }

  #onTimer() {
    if (this.#reading) return; // the end of the read sets the timer again
    if (this.#failures === 0 && !this.hasGap) this.#move("check");
    this.refresh();
  }

  /**
   * After `ms` milliseconds, check whether the socket has delivered the changes that reads have
   * returned.
   */
  #verifyIn(ms) {
    const joins = this.#joins;
    later(() => joins === this.#joins && !this.receivedAll && this.#onMissed(), ms);
  }

  /**
   * Handle a change that a read returned but the socket has not delivered, because Realtime drops
   * messages or the socket is dead.
   */
  #onMissed() {
    if (!this.#isJoined) return;
    this.#session.checkSocket();
    if (Date.now() < this.#receivedAt + LOSSY_MS) {
      const isSecond = Date.now() < this.#missedAt + LOSSY_MS;
      this.#move("withheld");
      this.#until = Date.now() + (isSecond ? LOSSY_MS : QUIET_MS);
      this.#missedAt = Date.now();
      this.onSynced(); // Realtime will not deliver the dropped messages later
    } else if (this.#state === "silent") {
      this.#session.rejoin(this.#topic, SILENT);
    } else {
      this.#move("missed"); // a late message would be lost by a new channel
      this.#until = Date.now() + QUIET_MS;
      this.#verifyIn(this.#options.pollingInterval);
    }
    this.notify();
    this.#arm();
  }
}
