// Follows one subject: joins its topic, then reads what it may have missed, and says how fresh it
// is. What is read and what a message means is left to subclasses; user, socket and outages are the
// session's.

import { later, nextFrame, notify } from "./page.js";
import { HUNG, OUTDATED } from "./session.js";
import { ANOTHER_USER } from "./socket.js";

/** How current a watch is; see `Follower.freshness`. */
export const FRESHNESS = ["live", "catching-up", "polling", "offline"];

const DEFAULTS = {
  pollingInterval: 3000, // ms between reads while Realtime is unavailable
  silence: 30_000, // at most so many ms until a read proves that nothing was missed
  firstSilence: 1500, // at least so many: Realtime drops messages silently
  // ms after a join in which Realtime says that messages arrive; it gives up after 60,000, and a
  // server from before 2026 never says so
  readyTimeout: 65_000,
  reorder: 100, // ms that a missing event may still arrive by itself
  joinTimeout: 5000, // ms after which a first join counts as failed
};
const MAX_POLL_MS = 30_000;
const SLOW_MS = 5000; // a read that takes longer may have hung
const WITHHELD_MS = 750; // a read that begins sooner does not show that no more is held back
const READ_SHARE = 5; // a pause is so many times as long as a read took: servers under load rest
const CHECK_SHARE = 20; // a check is due after this share of the time since the last news
const SPREAD_MS = 300; // so that many followers woken together do not all read together
// A socket that brought something so lately and lacks something now is not dead: above the plan's
// rate Realtime drops messages silently. It averages over a minute, so reads go on that long.
const LOSSY_MS = 60_000;
const QUIET_MS = 4500; // without news, in which a channel that is not trusted could not have failed
const SILENT = "silent";

// What most states, and those of a topic that was silent, do when it is joined or lost.
const TOPIC = { joined: "syncing", deaf: "deaf", lost: "polling" };
const SUSPECT = { joined: "silent", lost: "polling" };

/**
 * The states of a follower. `says` is its freshness, `reads` how often it reads (`poll`, `often`, else
 * to check that nothing was missed), `on` the state after an event; others change nothing.
 *
 * Events: the topic is `joined`, or joined and `deaf`, since messages do not arrive yet; it is `lost`,
 * or `left` as silent. A `message` comes, before a read since the join has ended (`early`) or after.
 * A read has `ended`, or `failed`; `quiet`, it found nothing new. A `check` begins. Messages are
 * `withheld`, or one is `missed`.
 */
const STATES = {
  // no topic has been joined yet, nor refused
  joining: { says: "catching-up", reads: "poll", on: { ...TOPIC, late: "polling" } },
  // Realtime is unavailable
  polling: { says: "polling", reads: "poll", on: TOPIC },
  // joined, and messages do not arrive yet
  deaf: { says: "catching-up", reads: "often", on: { ...TOPIC, quiet: "live" } },
  // messages arrive, and a read must bring what came before
  syncing: { says: "catching-up", on: { ...TOPIC, ended: "live", withheld: "lossy" } },
  live: {
    says: "live",
    on: { ...TOPIC, failed: "syncing", check: "checking", withheld: "lossy", missed: "silent" },
  },
  // a read proves that nothing was missed
  checking: { says: "live", on: { ...TOPIC, failed: "syncing", ended: "live", withheld: "lossy" } },
  // messages are held back to stay within the plan, or dropped above it: reads bring them
  lossy: { says: "catching-up", reads: "often", on: { ...TOPIC, quiet: "live" } },
  // messages did not come: reads bring them until one does, or nothing happens
  silent: {
    says: "polling",
    reads: "poll",
    on: { ...SUSPECT, left: "rejoining", early: "syncing", message: "live", quiet: "live" },
  },
  // a silent topic was left, and messages of its successor do not arrive yet
  rejoining: { says: "polling", reads: "poll", on: SUSPECT },
  closed: { says: "offline", on: {} },
};
const NOT_JOINED = ["joining", "polling", "rejoining", "closed"];

export class Follower {
  #session;
  #topic;
  #options;
  #leave = () => {};
  #state = "joining";
  #joins = 0;
  #isSynced = false; // whether a read has ended that began after the last join
  #until = -Infinity; // reads that begin before do not end the state
  #reading = null;
  #again = false;
  #isSlow = false; // the read under way
  #failures = 0;
  #error = null;
  #readAt = 0; // when the last read ended
  #readMs = 0; // ms of it
  #receivedAt = -Infinity; // when the last message since the join came
  #newsAt = -Infinity;
  #gapAt = Infinity; // when to read what is known to be missing
  #checkAt = Infinity; // when to prove that nothing else is
  #terms = { checkMs: 0 };
  #timer = null;
  #listeners = new Set();
  #notifying = false;

  constructor(session, topic, options = {}) {
    this.#session = session;
    this.#topic = topic;
    const given = Object.entries(options).filter(([, value]) => value !== undefined);
    this.#options = { ...DEFAULTS, ...Object.fromEntries(given) };
  }

  /** Read everything since what is known, by `read`. May throw; then it is tried again. */
  async catchUp() {}

  /** Forget every row: someone else reads, or the one who does may not. */
  forget() {}

  /** Take one message of the topic. */
  receive(_payload) {}

  /** Whether something is known to be missing. */
  get hasGap() {
    return false;
  }

  /** Whether a message shows that one before it was lost. */
  get isNumbered() {
    return false;
  }

  /** Everything up to now is known: it is not asked of this socket any more. */
  onSynced() {}

  /** Whether the socket brought everything that reads have found since `onSynced`. */
  get receivedAll() {
    return true;
  }

  /** Whether the subject can change at any moment, so that silence is worth a read. */
  get isLive() {
    return true;
  }

  /** At most so many ms until a read proves that nothing was missed. */
  get silence() {
    return this.#options.silence;
  }

  /** Called once, when there is nothing to follow any more. */
  onClose() {}

  /**
   * `live`: joined, messages arrive, and everything up to now was read since. `catching-up`: a read
   * is under way, something is known to be missing, or messages do not arrive yet, are held back to
   * stay within the plan, or dropped above it. `polling`: Realtime is unavailable, reads continue.
   * `offline`: neither works.
   */
  get freshness() {
    const { says } = STATES[this.#state];
    if (this.#session.isAway) return this.#isJoined ? "catching-up" : "offline";
    if (this.#isSlow || (says === "live" && this.hasGap)) return "catching-up";
    return says;
  }

  /** Why the last read failed, or null. */
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
    };
    const { schema, joinTimeout } = this.#options;
    this.#leave = this.#session.follow(this, { topic: this.#topic, listener, schema });
    later(() => {
      this.#move("late");
      this.notify();
    }, joinTimeout);
    this.refresh();
  }

  /** What a query answers that `ask` makes, for as long as who asked it is the one who reads. */
  async read(ask) {
    const answer = await this.#session.read(ask);
    if (this.closed) throw OUTDATED;
    return answer;
  }

  /** Another user's, or no one's: what was read is gone at once. The session has it read again. */
  empty() {
    this.forget();
    this.#onUnsynced();
    this.#error = null;
    this.#announce();
  }

  /** Who reads may not: nothing stays of what was read, nor the channel joined while they might. */
  refuse() {
    this.forget();
    this.#announce();
    this.#session.reenter(this.#topic, "refused");
  }

  /** Read now; resolves when a read that began after this call has ended. */
  refresh() {
    this.#again = true;
    this.#reading ??= this.#readAll().finally(() => (this.#reading = null));
    return this.#reading;
  }

  /** Receive every change of state, at most once per frame. */
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
    this.#receivedAt = -Infinity;
    this.#newsAt = Date.now();
    this.#until = Date.now() + (isDeaf ? this.#options.readyTimeout : QUIET_MS);
    // only now: what was committed before is in this read or was sent; while deaf, reads go on
    isDeaf ? this.#arm() : this.refresh();
    this.notify();
  }

  #onLost(reason) {
    const isNew = this.#isJoined || this.#state === "joining";
    this.#move(reason === SILENT ? "left" : "lost");
    if (isNew && reason !== ANOTHER_USER) this.refresh();
    this.notify();
  }

  #onMessage(payload) {
    if (this.closed) return;
    // messages do arrive
    if (["deaf", "rejoining"].includes(this.#state)) this.#onJoined(this.#terms);
    this.#move(this.#isSynced ? "message" : "early");
    this.#receivedAt = this.#newsAt = Date.now();
    const checkAt = Date.now() + this.#checkPause;
    // a stream of messages must not postpone the check, unless it shows what is missing
    this.#checkAt = this.isNumbered ? checkAt : Math.min(this.#checkAt, checkAt);
    if (payload?.look_again === true) return void this.#onWithheld();
    this.receive(payload);
    if (this.hasGap) this.#gapAt = Math.min(this.#gapAt, Date.now() + this.#options.reorder);
    this.#arm();
    this.notify();
  }

  /** More happened than may be sent: from here on reads bring it, until one finds nothing new. */
  #onWithheld() {
    this.#move("withheld");
    this.#until = Math.max(this.#until, Date.now() + WITHHELD_MS);
    later(() => this.refresh(), Math.random() * SPREAD_MS);
    this.notify();
  }

  /**
   * Ms until a read proves again that nothing was missed: what Realtime drops silently is found within
   * a twentieth of the time since the last news, or as the project's followers allow.
   */
  get #checkPause() {
    const share = (Date.now() - this.#newsAt) / CHECK_SHARE;
    const pause = Math.max(this.#options.firstSilence, this.#terms.checkMs, share);
    return Math.max(Math.min(pause, this.silence), READ_SHARE * this.#readMs);
  }

  async #readAll() {
    while (this.#again && !this.closed) {
      this.#again = false;
      const joins = this.#joins;
      const began = Date.now();
      const slow = later(() => {
        this.#isSlow = true;
        this.notify();
      }, SLOW_MS);
      try {
        const isNews = await this.catchUp();
        this.#readMs = Date.now() - began;
        this.#failures = 0;
        this.#error = null;
        if (isNews) this.#newsAt = Date.now();
        if (joins === this.#joins) this.#onRead(!isNews && began > this.#until);
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

  /** A read has ended that began after the last join. */
  #onRead(isQuiet) {
    if (isQuiet) this.#move("quiet");
    else if (this.#state === "silent") this.#until = Math.max(this.#until, this.#newsAt + QUIET_MS);
    const isChecked = this.#state === "checking";
    // what other reads than a check find is not asked of the socket
    if (!this.#isSynced || !(isChecked || this.#state === "silent")) this.onSynced();
    this.#isSynced = true;
    this.#move("ended");
    if (isChecked) this.#verifyIn(this.#options.firstSilence);
  }

  #onFailure(error) {
    if (error === OUTDATED) return;
    if (error === HUNG) return void (this.#again = true);
    const isRefused = error?.isRefusal && !this.#error?.isRefusal;
    this.#failures += 1;
    this.#error = error;
    if (error?.status !== 429) this.#onUnsynced(); // a server that is busy will answer
    if (isRefused) this.refuse();
  }

  /** When to read although nothing asks for it. */
  #dueAt() {
    const { pollingInterval, firstSilence } = this.#options;
    if (this.#session.isAway) return Infinity; // one reads for all until there is an answer
    const { reads } = STATES[this.#state];
    if (this.#failures > 0 || reads === "poll") {
      const wait = pollingInterval * (this.isLive ? 1 : 5) * 1.6 ** this.#failures;
      return this.#readAt + Math.min(wait, MAX_POLL_MS) * (0.85 + Math.random() * 0.3);
    }
    if (reads === "often") return this.#readAt + Math.max(firstSilence, READ_SHARE * this.#readMs);
    return this.#gapAt < Infinity || !this.isLive ? this.#gapAt : this.#checkAt;
  }

  #arm() {
    clearTimeout(this.#timer);
    const due = this.#dueAt();
    if (this.closed || due === Infinity) return;
    this.#timer = later(() => this.#onTimer(), Math.max(0, due - Date.now()));
  }

  #onTimer() {
    if (this.#reading) return; // its end arms again
    if (this.#failures === 0 && !this.hasGap) this.#move("check");
    this.refresh();
  }

  /** See, after so many ms, whether the socket has brought what reads have found. */
  #verifyIn(ms) {
    const joins = this.#joins;
    later(() => joins === this.#joins && !this.receivedAll && this.#onMissed(), ms);
  }

  /** A check found what the socket never brought: messages are dropped, or the socket is dead. */
  #onMissed() {
    if (!this.#isJoined) return;
    if (Date.now() < this.#receivedAt + LOSSY_MS) {
      this.#move("withheld");
      this.#until = Date.now() + LOSSY_MS;
      this.onSynced(); // what was dropped is not asked for again
    } else if (this.#state === "silent") {
      this.#session.reenter(this.#topic, SILENT);
    } else {
      this.#move("missed"); // a first message may only be late: a new channel would lose it
      this.#until = Date.now() + QUIET_MS;
      this.#session.proveSocket();
      this.#verifyIn(this.#options.pollingInterval);
    }
    this.notify();
    this.#arm();
  }
}
