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
const LONGEST_POLL = 30_000;
const SLOW_MS = 5000; // a read that takes longer may have hung
const LOOK_AGAIN_MS = 1500; // between reads while messages are held back
const LOOK_AGAIN_SHARE = 5; // so many times as long as a read took: servers under load rest
const CHECK_SHARE = 20; // a check is due after this share of the time since the last news
const SPREAD_MS = 300; // so that many followers woken together do not all read together
// A socket that brought something so lately and lacks something now is not dead: above the plan's
// rate Realtime drops messages silently. It averages over a minute, so reads go on that long.
const LOSSY_MS = 60_000;
const QUIET_MS = 4500; // without news, in which a channel that is not trusted could not have failed
const SILENT = "silent";

export class Follower {
  #session;
  #topic;
  #options;
  #leave = () => {};
  #joined = false;
  #joins = 0;
  #lostOnce = false;
  #distrusted = false;
  #synced = false;
  #reading = null;
  #isSlow = false; // the read under way
  #again = false;
  #reads = 0;
  #failures = 0;
  #isRefused = false;
  #error = null;
  #receivedAt = -Infinity;
  #lastRead = 0;
  #gapAt = Infinity; // when to read what is known to be missing
  #checkAt = Infinity; // when to prove that nothing else is
  #newsAt = -Infinity;
  #deafUntil = -Infinity; // joined, but messages do not arrive yet
  #lossyUntil = -Infinity; // messages were dropped, and perhaps still are
  #terms = { checkMs: 0 };
  #held = false; // messages were held back, and perhaps still are
  #lookAgainAt = -Infinity;
  #readMs = 0; // ms of the last read
  #jitter = 1;
  #checks = 0;
  #isCheck = false;
  #timer = null;
  #due = 0;
  #startedAt = 0;
  #closed = false;
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
    if (this.#session.isAway) return this.#joined ? "catching-up" : "offline";
    if (this.#isSlow) return "catching-up";
    if (!this.#joined || this.#distrusted) {
      const joining = !this.#lostOnce && Date.now() - this.#startedAt < this.#options.joinTimeout;
      return joining || this.#reads === 0 ? "catching-up" : "polling";
    }
    return this.#synced && !this.hasGap && !this.#readsAnyway ? "live" : "catching-up";
  }

  /** Why the last read failed, or null. */
  get error() {
    return this.#error ?? this.#session.problem;
  }

  get closed() {
    return this.#closed;
  }

  start() {
    this.#startedAt = Date.now();
    const listener = {
      joined: (terms, isDeaf) => this.#onJoined(terms, isDeaf),
      lost: (reason) => this.#onLost(reason),
      message: (payload) => this.#onMessage(payload),
    };
    const { schema } = this.#options;
    this.#leave = this.#session.follow(this, { topic: this.#topic, listener, schema });
    this.refresh();
  }

  /** What a query answers that `ask` makes, for as long as who asked it is the one who reads. */
  async read(ask) {
    const answer = await this.#session.read(ask);
    if (this.#closed) throw OUTDATED;
    return answer;
  }

  /** Another user's, or no one's: what was read is gone at once. The session has it read again. */
  empty() {
    this.forget();
    this.#synced = this.#isRefused = false;
    this.#reads = 0;
    this.#error = null;
    this.#announce();
  }

  /** Who reads may not: nothing stays of what was read, nor the channel joined while they might. */
  refuse() {
    if (this.#isRefused) return;
    this.#isRefused = true;
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
    if (this.#notifying || this.#closed) return;
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
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#leave();
    this.#listeners.clear();
    this.onClose();
  }

  /** Whether messages do not bring everything now, so that reads must. */
  get #readsAnyway() {
    return this.#held || Date.now() < Math.max(this.#deafUntil, this.#lossyUntil);
  }

  #onJoined(terms, isDeaf = false) {
    this.#joined = true;
    this.#terms = terms;
    this.#joins += 1;
    this.#synced = false;
    this.#receivedAt = -Infinity;
    this.#deafUntil = isDeaf ? Date.now() + this.#options.readyTimeout : -Infinity;
    this.#checks = 0;
    this.#newsAt = Date.now();
    // only now: what was committed before is in this read or was sent; while deaf, reads go on
    isDeaf ? this.#arm() : this.refresh();
    this.notify();
  }

  #onLost(reason) {
    const was = this.#joined || !this.#lostOnce;
    if (reason !== SILENT) this.#distrusted = false; // its successor has done nothing yet
    this.#joined = false;
    this.#lostOnce = true;
    if (was && reason !== ANOTHER_USER) this.refresh();
    this.notify();
  }

  #onMessage(payload) {
    if (this.#closed) return;
    if (Date.now() < this.#deafUntil) this.#onJoined(this.#terms); // messages do arrive
    this.#receivedAt = this.#newsAt = Date.now();
    const checkAt = Date.now() + this.#checkPause;
    // a stream of messages must not postpone the check, unless it shows what is missing
    this.#checkAt =
      this.isNumbered && this.#checks > 0 ? checkAt : Math.min(this.#checkAt, checkAt);
    this.#distrusted = false;
    if (payload?.look_again === true) return void this.#lookAgain();
    this.receive(payload);
    if (this.hasGap) this.#gapAt = Math.min(this.#gapAt, Date.now() + this.#options.reorder);
    this.#arm();
    this.notify();
  }

  get #checkPause() {
    const { checkMs } = this.#terms;
    const timing = { ...this.#options, silence: this.silence };
    return checkPause(Date.now() - this.#newsAt, this.#readMs, checkMs, timing);
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
      const joins = this.#joins;
      const began = Date.now();
      const slow = later(() => {
        this.#isSlow = true;
        this.notify();
      }, SLOW_MS);
      try {
        const news = await this.catchUp();
        this.#readMs = Date.now() - began;
        if (news) this.#newsAt = Date.now();
        else if (began - this.#lookAgainAt > LOOK_AGAIN_MS / 2) this.#held = false;
        this.#reads += 1;
        this.#failures = 0;
        this.#isRefused = false;
        this.#error = null;
        if (joins === this.#joins) {
          // a channel that was joined again has brought nothing, and there was nothing to bring
          const isQuiet = !news && this.#joined && began > this.#newsAt + QUIET_MS;
          if (isQuiet && began > this.#deafUntil) this.#distrusted = false;
          // what other reads than a check find is not asked of the socket
          if (!this.#synced || !(this.#isCheck || this.#distrusted)) this.onSynced();
          this.#synced = true;
        }
      } catch (error) {
        this.#onFailure(error);
      }
      clearTimeout(slow);
      this.#isSlow = false;
      this.notify();
    }
    this.#lastRead = Date.now();
    this.#jitter = 0.85 + Math.random() * 0.3;
    this.#gapAt = this.hasGap ? this.#lastRead + this.#options.reorder : Infinity;
    this.#checkAt = this.#lastRead + this.#checkPause;
    this.#arm();
  }

  #onFailure(error) {
    if (error === OUTDATED) return;
    if (error === HUNG) return void (this.#again = true);
    this.#failures += 1;
    this.#error = error;
    if (error?.status !== 429) this.#synced = false; // a server that is busy will answer
    if (error?.isRefusal) this.refuse();
  }

  /** When to read although nothing asks for it. */
  #dueAt() {
    const { pollingInterval, firstSilence } = this.#options;
    const since = this.#lastRead;
    if (this.#session.isAway) return Infinity; // one reads for all until there is an answer
    if (this.#failures > 0 || !this.#joined || this.#distrusted) {
      const calm = this.isLive ? 1 : 5;
      const wait = pollingInterval * calm * 1.6 ** this.#failures;
      return since + Math.min(wait, LONGEST_POLL) * this.#jitter;
    }
    if (this.#readsAnyway) {
      const pause = this.#held ? LOOK_AGAIN_MS : firstSilence;
      return since + Math.max(pause, LOOK_AGAIN_SHARE * this.#readMs);
    }
    if (this.#gapAt < Infinity || !this.isLive) return this.#gapAt;
    return this.#checkAt;
  }

  #arm() {
    clearTimeout(this.#timer);
    this.#due = this.#dueAt();
    if (this.#closed || this.#due === Infinity) return;
    this.#timer = later(() => this.#onTimer(), Math.max(0, this.#due - Date.now()));
  }

  async #onTimer() {
    if (this.#reading) return; // its end arms again
    const joins = this.#joins;
    const rests = this.#failures > 0 || this.#readsAnyway || this.#distrusted || this.hasGap;
    const isCheck = this.#joined && this.#synced && !rests;
    if (isCheck) this.#checks += 1;
    this.#isCheck = isCheck;
    await this.refresh();
    this.#isCheck = false;
    if (isCheck) this.#checkSilenceIn(this.#options.firstSilence, joins);
  }

  #checkSilenceIn(wait, joins) {
    later(() => this.#checkSilence(joins), wait);
  }

  /** If a check found what the socket never brought, messages are dropped or the socket is dead. */
  #checkSilence(joins) {
    if (this.#closed || joins !== this.#joins || !this.#joined || this.receivedAll) return;
    if (Date.now() < this.#receivedAt + LOSSY_MS) {
      this.#lossyUntil = Date.now() + LOSSY_MS;
      this.onSynced(); // what was dropped is not asked for again
    } else if (this.#distrusted) {
      this.#session.reenter(this.#topic, SILENT);
    } else {
      this.#distrusted = true; // a first message may only be late: a new channel would lose it
      this.#session.proveSocket();
      this.#checkSilenceIn(this.#options.pollingInterval, joins);
    }
    this.notify();
    this.#arm();
  }
}

/**
 * Until a read proves again that nothing was missed: what Realtime drops silently is found within
 * a twentieth of the time since the last news, or as the project's followers allow.
 */
function checkPause(idle, readMs, advised, { firstSilence, silence }) {
  const pause = Math.max(firstSilence, advised, idle / CHECK_SHARE);
  return Math.max(Math.min(pause, silence), LOOK_AGAIN_SHARE * readMs);
}
