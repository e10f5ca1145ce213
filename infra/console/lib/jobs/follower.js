// Follows one subject: joins its topic, then reads what it may have missed, and says how fresh it
// is. What is read and what a message means is left to subclasses.

import { isOffline, onWake } from "./wakes.js";

/** @import { Freshness } from "./types.js" */

/**
 * How current a watch is; see `Follower.freshness`.
 *
 * @type {readonly Freshness[]}
 */
export const FRESHNESS = ["live", "catching-up", "polling", "offline"];

const DEFAULTS = {
  pollingInterval: 3000, // ms between reads while Realtime is unavailable
  silence: 30_000, // ms without a message after which a read proves that nothing was missed
  firstSilence: 2000, // the same for the first time after a join: "subscribed" may be premature
  reorder: 100, // ms that a missing event may still arrive by itself
  joinTimeout: 5000, // ms after which a first join counts as failed
};
/**
 * @typedef {Partial<typeof DEFAULTS>} Timing How patient a watch is, in ms; `pollingInterval` is
 *   the one to change.
 */
const LONGEST_POLL = 30_000;
const SLEPT_MS = 15_000;
const LOOK_AGAIN_MS = 1500; // between reads while messages are held back
const LOOK_AGAIN_SHARE = 5; // at least so many times as long as a read took: servers under load rest
const SPREAD_MS = 300; // so that many followers woken together do not all read together
const EXCUSED_MS = 60_000; // after "look again", what a read finds was held back and not lost

export class Follower {
  #topics;
  #topic;
  #options;
  #leave = () => {};
  #unwake = () => {};
  #joined = false;
  #joins = 0;
  #lostOnce = false;
  #distrusted = false;
  #distrusts = 0;
  #synced = false;
  /** @type {Promise<void> | null} */
  #reading = null;
  #again = false;
  #reads = 0;
  #failures = 0;
  #unreachable = false;
  /** @type {any} */
  #error = null;
  #lastHeard = 0;
  #quiet = false; // jobs of some types publish nothing: neither silence nor a message proves much
  #held = false; // messages were held back, and perhaps still are
  #lookAgainAt = -Infinity;
  #took = 0; // ms of the last read
  #checks = 0;
  /** @type {any} A timer is a number in browsers and an object in Node. */
  #timer = null;
  #due = 0;
  #startedAt = 0;
  #closed = false;
  /** @type {Set<() => void>} */
  #listeners = new Set();
  #notifying = false;

  /**
   * @param {import("./topics.js").Topics} topics
   * @param {string} topic
   * @param {Timing} options
   */
  constructor(topics, topic, options = {}) {
    this.#topics = topics;
    this.#topic = topic;
    const given = Object.entries(options).filter(([, value]) => value !== undefined);
    this.#options = { ...DEFAULTS, ...Object.fromEntries(given) };
  }

  // For subclasses ------------------------------------------------------------------------------

  /**
   * Read everything since what is known. May throw; then it is tried again.
   *
   * @returns {Promise<boolean | void>} Whether there was news.
   */
  async catchUp() {}

  /**
   * Take one message of the topic.
   *
   * @param {unknown} _payload
   */
  receive(_payload) {}

  /** Whether something is known to be missing. */
  get hasGap() {
    return false;
  }

  /** Everything up to now was read after a join: what came before is not asked of this socket. */
  onSynced() {}

  /** Whether the socket brought everything that reads have found since `onSynced`. */
  get heardAll() {
    return true;
  }

  /** Whether the subject can change at any moment, so that silence is worth a read. */
  get isLive() {
    return true;
  }

  /** Called once, when there is nothing to follow any more. */
  onClose() {}

  // Public --------------------------------------------------------------------------------------

  /**
   * `live`: joined, and everything up to now was read since. `catching-up`: a read is under way,
   * something is known to be missing, or messages are held back to stay within the plan. `polling`: Realtime is unavailable, reads continue. `offline`:
   * neither works.
   *
   * @returns {Freshness}
   */
  get freshness() {
    if (isOffline() || this.#unreachable) return "offline";
    if (!this.#joined || this.#distrusted) {
      const joining = !this.#lostOnce && Date.now() - this.#startedAt < this.#options.joinTimeout;
      return joining || this.#reads === 0 ? "catching-up" : "polling";
    }
    return this.#synced && !this.hasGap && !this.#held ? "live" : "catching-up";
  }

  /**
   * Why the last read failed, or null.
   *
   * @returns {Error | null}
   */
  get error() {
    return this.#error;
  }

  get closed() {
    return this.#closed;
  }

  start() {
    this.#startedAt = Date.now();
    const listener = {
      joined: (/** @type {boolean} */ quiet) => this.#onJoined(quiet),
      lost: () => this.#onLost(),
      message: (/** @type {any} */ payload) => this.#onMessage(payload),
    };
    const { schema } = /** @type {{schema?: string}} */ (this.#options);
    this.#leave = this.#topics.join(this.#topic, listener, schema);
    this.#unwake = onWake(() => this.wake());
    this.refresh();
  }

  /**
   * Read now; resolves when a read that began after this call has ended.
   *
   * @returns {Promise<void>}
   */
  refresh() {
    if (this.#closed) return Promise.resolve();
    this.#again = true;
    this.#reading ??= this.#readAll().finally(() => (this.#reading = null));
    return this.#reading;
  }

  /** The page or the network is back: a fresh token, a live socket and a read. */
  wake() {
    this.notify();
    if (isOffline() || this.#closed) return;
    this.#topics.nudge();
    this.refresh();
  }

  /**
   * Be told of every change of state, at most once per frame.
   *
   * @param {() => void} listener
   * @returns {() => void} Ends it.
   */
  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  notify() {
    if (this.#notifying || this.#closed) return;
    this.#notifying = true;
    nextFrame(() => {
      this.#notifying = false;
      if (!this.#closed) for (const listener of [...this.#listeners]) listener();
    });
  }

  close() {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#leave();
    this.#unwake();
    this.#listeners.clear();
    this.onClose();
  }

  // Inside --------------------------------------------------------------------------------------

  /** @param {boolean} quiet */
  #onJoined(quiet) {
    this.#joined = true;
    this.#quiet = quiet;
    this.#joins += 1;
    this.#synced = false;
    // a new socket is trusted once; after that only a message proves that any arrive
    this.#distrusted &&= this.#distrusts > 1;
    this.#checks = 0;
    this.refresh(); // only now: what was committed before the join is in this read or was sent
    this.notify();
  }

  #onLost() {
    const was = this.#joined || !this.#lostOnce;
    this.#joined = false;
    this.#synced = false;
    this.#lostOnce = true;
    if (was) this.refresh();
    this.notify();
  }

  /** @param {any} payload */
  #onMessage(payload) {
    if (this.#closed) return;
    if (!this.#quiet) this.#lastHeard = Date.now();
    this.#distrusted = false;
    this.#distrusts = 0;
    if (payload?.look_again === true) return void this.#lookAgain();
    this.receive(payload);
    // a hole is what was held back: many who would all fill it at once are worse than a late one
    if (this.hasGap && !this.#held) this.#arm(this.#options.reorder);
    this.notify();
  }

  /** More happened than may be sent: from here on reads bring it, until one finds nothing new. */
  #lookAgain() {
    this.#held = true;
    this.#lookAgainAt = Date.now();
    later(() => this.refresh(), Math.random() * SPREAD_MS);
    this.notify();
  }

  async #readAll() {
    while (this.#again && !this.#closed) {
      this.#again = false;
      const joins = this.#joined ? this.#joins : 0;
      const began = Date.now();
      try {
        const news = await this.catchUp();
        this.#took = Date.now() - began;
        if (!news && began - this.#lookAgainAt > LOOK_AGAIN_MS / 2) this.#held = false;
        this.#reads += 1;
        this.#failures = 0;
        this.#unreachable = false;
        this.#error = null;
        if (this.#joined && joins === this.#joins) {
          if (!this.#synced) this.onSynced();
          this.#synced = true;
        }
      } catch (caught) {
        const error = /** @type {any} */ (caught);
        this.#failures += 1;
        this.#unreachable = !error?.reachable;
        if (error?.reachable) this.#synced = false; // refused: what is shown may be old for good
        this.#error = error;
      }
      this.notify();
    }
    this.#lastHeard = Date.now();
    this.#arm();
  }

  #nextRead() {
    const { pollingInterval, silence, firstSilence, reorder } = this.#options;
    if (this.#failures > 0 || !this.#joined || this.#distrusted) {
      const calm = this.isLive ? 1 : 5;
      const wait = pollingInterval * calm * 1.6 ** Math.min(this.#failures, 8);
      return Math.min(wait, LONGEST_POLL) * (0.85 + Math.random() * 0.3);
    }
    if (this.#held) return Math.max(LOOK_AGAIN_MS, LOOK_AGAIN_SHARE * this.#took);
    if (this.hasGap) return reorder;
    return this.#checks === 0 ? firstSilence : silence;
  }

  #arm(wait = this.#nextRead()) {
    if (this.#closed) return;
    const due = Date.now() + wait;
    const isUrgent = wait === this.#options.reorder;
    if (isUrgent && this.#timer !== null && this.#due <= due) return; // a read is due before that
    clearTimeout(this.#timer);
    this.#due = due;
    this.#timer = later(() => this.#onTimer(), wait);
  }

  async #onTimer() {
    this.#timer = null;
    const slept = Date.now() - this.#due > SLEPT_MS;
    if (slept) return void this.wake();
    const trusts =
      this.#joined &&
      this.#synced &&
      !this.#distrusted &&
      !this.hasGap &&
      !this.#held &&
      this.#failures === 0;
    if (trusts && !this.isLive) return void this.#arm();
    const quiet = Date.now() - this.#lastHeard;
    const enough = this.#checks === 0 ? this.#options.firstSilence : this.#options.silence;
    if (trusts && quiet < enough) return void this.#arm(enough - quiet);
    const joins = this.#joins;
    if (trusts) this.#checks += 1;
    await this.refresh();
    if (trusts) later(() => this.#judge(joins), this.#options.firstSilence);
  }

  /** After a read in silence: if it found what the socket never brought, the socket is dead. */
  #judge(/** @type {number} */ joins) {
    if (this.#closed || joins !== this.#joins || !this.#joined || this.heardAll) return;
    if (this.#quiet || Date.now() - this.#lookAgainAt < EXCUSED_MS) return;
    this.#distrusted = true;
    this.#distrusts += 1;
    this.#topics.reconnect();
    this.notify();
    this.#arm();
  }
}

/**
 * A timer; a script in Node may end while it watches.
 *
 * @param {() => void} run
 * @param {number} wait
 */
export function later(run, wait) {
  const timer = /** @type {any} */ (setTimeout(run, wait));
  timer.unref?.();
  return timer;
}

/** @param {() => void} run */
function nextFrame(run) {
  const { document, requestAnimationFrame } = globalThis;
  if (document?.visibilityState === "visible" && requestAnimationFrame) requestAnimationFrame(run);
  else setTimeout(run, document ? 250 : 0); // hidden pages get no frames
}
