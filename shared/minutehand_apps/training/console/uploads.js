/**
 * Uploads from the browser, part by part straight to storage.
 *
 * They continue while other pages are open; after a reload the server is asked what has arrived:
 * when all has, the upload is completed; otherwise the same file is chosen again, and parts that
 * arrived are not sent again.
 */

import { request } from "../../api.js";
import { createStore } from "../../lib/store.js";

const ROUTE = "/api/uploads";
const PLACE = "minutehand.uploads "; // and the upload's id: other tabs keep theirs
const AT_ONCE = 3;
const TRIES = 5;
const MOST_TRIES = 20; // calls of the API while it asks to come back
const PART_TIMEOUT_MS = 15 * 60_000;

/** The uploads of this browser that have not ended, those of an earlier page load included. */
export class Uploads {
  #store = createStore(kept().map((one) => ({ ...one, sent: 0, state: "waiting", problem: null })));
  // an upload's file, and how what is being sent of it is stopped: no reload keeps these
  #files = new Map();
  #sending = new Map();
  #onEnd;

  /** `onEnd(upload)` is called for each that was completed, `onEnd(null, error)` for one lost. */
  constructor(onEnd) {
    this.#onEnd = onEnd;
  }

  get = () => this.#store.get();
  subscribe = (listener) => this.#store.subscribe(listener);

  /** Begin an upload; returns when sending has begun. Sizes, types and names are refused here. */
  async begin(file, fields, whose) {
    const described = { filename: file.name || "file", size: file.size, ...fields };
    const { id, title } = await request("POST", ROUTE, { body: described });
    this.#files.set(id, file);
    const known = { name: file.name, size: file.size, modified: file.lastModified };
    const begun = { id, title, ...known, whose, sums: {}, sent: 0, state: "sending" };
    this.#store.set((all) => [...all, { ...begun, problem: null }]);
    this.#keep(id);
    this.#send(id);
  }

  /** Ask about uploads of an earlier page load, and complete those that have arrived. */
  async recall(whose) {
    const waiting = this.get().filter((one) => one.state === "waiting" && one.whose === whose);
    await Promise.all(waiting.map((one) => this.#recallOne(one)));
  }

  /** Stop sending; what has arrived stays. */
  pause(id) {
    this.#stop(id);
    this.#change(id, { state: "paused" });
  }

  /** Continue. After a reload `file` must be the one that it began with. */
  async resume(id, file = undefined) {
    const one = this.#find(id);
    if (!one) return;
    if (file) {
      if (file.name !== one.name || file.size !== one.size || file.lastModified !== one.modified)
        throw new Error(
          `That is not the file this upload was begun with: ${one.name}, ${one.size} bytes`,
        );
      this.#files.set(id, file);
    }
    await this.#send(id);
  }

  /** Give an upload up, and have what arrived thrown away. */
  async abort(id) {
    this.#stop(id);
    try {
      await request("DELETE", routeOf(id));
    } catch (error) {
      if (error.status !== 404) throw error;
    }
    this.#forget(id);
  }

  async #recallOne({ id, sums }) {
    try {
      const found = await call("GET", id);
      const isKnown = Object.keys(sums).length === found.part_count;
      if (found.missing.length === 0 && isKnown) await this.#finish(id, found);
      else this.#change(id, { sent: arrivedOf(found) });
    } catch (error) {
      if (error.status === 404) this.#forget(id);
      else this.#change(id, { state: "waiting", problem: error.message });
    }
  }

  /** Send what is missing, and join the parts. */
  async #send(id) {
    if (this.#sending.has(id)) return;
    const stop = new AbortController();
    this.#sending.set(id, stop);
    this.#change(id, { state: "sending", problem: null });
    try {
      const upload = await call("GET", id, "", { signal: stop.signal });
      await new Sender(upload, this.#files.get(id), stop.signal, {
        sums: this.#find(id)?.sums,
        onSum: (sums) => {
          this.#change(id, { sums });
          this.#keep(id); // so that a page that returns can complete what has arrived
        },
        onSent: (sent) => this.#change(id, { sent }),
      }).run();
      await this.#finish(id, upload);
    } catch (error) {
      if (stop.signal.aborted) return;
      stop.abort(); // the other parts on their way
      this.#fail(id, error);
    } finally {
      if (this.#sending.get(id) === stop) this.#sending.delete(id);
    }
  }

  async #finish(id, upload) {
    const one = this.#find(id);
    if (!one) return; // abandoned meanwhile
    this.#change(id, { state: "finishing" });
    const checksum = await sumOf(one.sums, upload.part_count);
    const done = await call("POST", id, "/complete", { body: { checksum } });
    this.#forget(id);
    this.#onEnd(done);
  }

  #fail(id, error) {
    if (error.status === 404) {
      this.#forget(id);
      this.#onEnd(null, new Error("The upload has expired or was aborted; start it again"));
    } else this.#change(id, { state: "paused", problem: error.message });
  }

  #stop(id) {
    this.#sending.get(id)?.abort();
    this.#sending.delete(id); // so that resuming at once begins again
  }

  #find = (id) => this.get().find((one) => one.id === id);

  #change(id, changes) {
    this.#store.set((all) => all.map((one) => (one.id === id ? { ...one, ...changes } : one)));
  }

  #keep(id) {
    const one = this.#find(id); // unless it was forgotten while a part was summed
    if (one) localStorage.setItem(PLACE + id, JSON.stringify(one));
  }

  #forget(id) {
    this.#files.delete(id);
    this.#sending.delete(id);
    this.#store.set((all) => all.filter((one) => one.id !== id));
    localStorage.removeItem(PLACE + id);
  }
}

/** Sends what is missing of a file, three parts at a time. */
class Sender {
  #upload;
  #file;
  #signal;
  #sums;
  #onSum;
  #onSent;
  #left;
  #arrived;
  #partial = new Map(); // bytes sent of each part on its way

  constructor(upload, file, signal, { sums, onSum, onSent }) {
    this.#upload = upload;
    this.#file = file;
    this.#signal = signal;
    this.#sums = { ...sums };
    this.#onSum = onSum;
    this.#onSent = onSent;
    this.#left = [...upload.missing];
    this.#arrived = arrivedOf(upload);
  }

  /** Returns once every part has arrived and is summed. */
  async run() {
    this.#announce();
    await Promise.all(Array.from({ length: AT_ONCE }, () => this.#sendParts()));
    this.#signal.throwIfAborted();
    for (let number = 1; number <= this.#upload.part_count; number += 1) await this.#sum(number);
  }

  async #sendParts() {
    for (let number = this.#left.shift(); number; number = this.#left.shift()) {
      if (this.#signal.aborted) return;
      await this.#tryPart(number);
      this.#arrived += bytesIn(this.#upload, number);
      this.#announce(number, null);
    }
  }

  async #tryPart(number) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.#sendPart(number);
        return;
      } catch (error) {
        this.#announce(number, null);
        if (this.#signal.aborted || attempt >= TRIES || error.status === 404) throw error;
        await pauseOf(0.5 * 2 ** attempt);
      }
    }
  }

  async #sendPart(number) {
    // an address is used once: a second try asks for a fresh one
    const body = { parts: [{ part_number: number, checksum: await this.#sum(number) }] };
    const signed = await call("POST", this.#upload.id, "/parts", { body, signal: this.#signal });
    const announce = (bytes) => this.#announce(number, bytes);
    await put(signed.parts[0], this.#partOf(number), this.#signal, announce);
  }

  async #sum(number) {
    if (!this.#sums[number]) {
      this.#sums[number] = await hash(await this.#partOf(number).arrayBuffer());
      this.#onSum({ ...this.#sums });
    }
    return this.#sums[number];
  }

  #partOf(number) {
    const from = (number - 1) * this.#upload.part_bytes;
    return this.#file.slice(from, from + bytesIn(this.#upload, number));
  }

  /** Say how much has been sent; `bytes` of a part on its way, null for one that is not. */
  #announce(number = 0, bytes = null) {
    if (bytes === null) this.#partial.delete(number);
    else this.#partial.set(number, bytes);
    if (this.#signal.aborted) return;
    this.#onSent(this.#arrived + [...this.#partial.values()].reduce((sum, one) => sum + one, 0));
  }
}

/** What earlier page loads and other tabs keep. */
function kept() {
  return Object.keys(localStorage)
    .filter((name) => name.startsWith(PLACE))
    .flatMap((name) => {
      try {
        const one = JSON.parse(localStorage[name]);
        const isWhole = [one.id, one.name, one.title].every((text) => typeof text === "string");
        return isWhole ? [one] : [];
      } catch {
        return []; // someone else's, or an older version's
      }
    });
}

const routeOf = (id) => `${ROUTE}/${encodeURIComponent(id)}`;
const arrivedOf = (upload) =>
  upload.size_bytes - upload.missing.reduce((sum, number) => sum + bytesIn(upload, number), 0);
const bytesIn = (upload, number) =>
  Math.min(upload.part_bytes, upload.size_bytes - (number - 1) * upload.part_bytes);
const pauseOf = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** A call about an upload, repeated while the server asks for it: 503, 429 and no answer at all. */
async function call(method, id, more = "", { body, signal } = {}) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await request(method, routeOf(id) + more, { body, signal });
    } catch (error) {
      const isPassing = [0, 429, 503].includes(error.status);
      if (signal?.aborted || !isPassing || attempt >= MOST_TRIES) throw error;
      await pauseOf(error.retryAfter ?? Math.min(30, 2 ** attempt / 2));
    }
  }
}

// Checksums: SHA-256 of each part, in base64; and of all of those together, which names the file

async function hash(bytes) {
  const found = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return btoa(String.fromCharCode(...found));
}

async function sumOf(sums, count) {
  const parts = Array.from({ length: count }, (_, index) => atob(sums[index + 1] ?? ""));
  const all = Uint8Array.from(parts.join(""), (letter) => letter.charCodeAt(0));
  return `${await hash(all)}-${count}`;
}

/** Send a part by XMLHttpRequest, since fetch does not report how much of a body has been sent. */
function put({ url, headers }, body, signal, onBytes) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted(); // stopped while the address was asked for
    const http = new XMLHttpRequest();
    const stop = () => http.abort();
    signal.addEventListener("abort", stop);
    const end = (problem) => {
      signal.removeEventListener("abort", stop);
      if (problem) reject(Object.assign(new Error(problem), { status: http.status }));
      else resolve();
    };
    http.open("PUT", url);
    for (const [name, value] of Object.entries(headers)) http.setRequestHeader(name, value);
    http.timeout = PART_TIMEOUT_MS;
    http.upload.onprogress = (event) => onBytes(event.loaded);
    http.onload = () => end(http.status === 200 ? null : `Storage refused a part (${http.status})`);
    http.onerror = () => end("Storage cannot be reached");
    http.ontimeout = () => end("Storage did not answer in time");
    http.onabort = () => end("Stopped");
    http.send(body);
  });
}
