/**
 * Uploads files from the browser in parts, directly to the storage.
 *
 * Uploads continue while other pages of the console are open. After the page was reloaded, the
 * person chooses the same file again, and only the missing parts are sent. The module does not use
 * the library Uppy. The signature of each part covers the SHA-256 of the part, and Uppy's function
 * `signRequest` does not get the bytes of the part.
 */

import { createStore, isTransient, request } from "../../app.js";

const ROUTE = "/api/uploads";
// The id of the upload follows this prefix in the key of `localStorage`, so that two tabs never
// write the same entry.
const PREFIX = "minutehand.uploads ";
const CONCURRENT_PARTS = 3;
const MAX_TRIES = 10;
const MAX_DELAY_SECONDS = 30;
const PART_TIMEOUT_MS = 15 * 60_000;

/**
 * The unfinished uploads of this browser, including uploads that began before the page was loaded.
 */
export class Uploads {
  #store = createStore(readKept());
  #files = new Map();
  #sending = new Map(); // AbortController of each running upload
  #onEnd;

  /**
   * The class calls `onEnd(upload)` when an upload is complete, and `onEnd(null, error)` when an
   * upload is lost.
   */
  constructor(onEnd) {
    this.#onEnd = onEnd;
  }

  get = () => this.#store.get();
  subscribe = (listener) => this.#store.subscribe(listener);

  /**
   * Start an upload. The promise resolves when the browser has begun to send. The API checks the
   * size, type and name of the file.
   */
  async begin(file, fields, whose) {
    const body = { filename: file.name || "file", size: file.size, ...fields };
    const { id, title } = await request("POST", ROUTE, { body });
    const { name, size, lastModified: modified } = file;
    const kept = { id, title, name, size, modified, whose };
    localStorage.setItem(PREFIX + id, JSON.stringify(kept));
    this.#store.set((all) => [...all, interrupted(kept)]);
    this.resume(id, file);
  }

  /**
   * Send the missing parts, and then complete the upload. After the page was reloaded, the caller
   * must pass `file`.
   */
  async resume(id, file = this.#files.get(id)) {
    const { name, size, modified } = this.get().find((one) => one.id === id);
    if (file.name !== name || file.size !== size || file.lastModified !== modified)
      throw new Error(`This upload was started with another file: ${name}, ${size} bytes`);
    const stop = new AbortController();
    this.#files.set(id, file);
    this.#sending.set(id, stop);
    this.#change(id, { state: "sending", hasFile: true, problem: null });
    try {
      const upload = await send(id, file, stop.signal, (changes) => this.#change(id, changes));
      this.#forget(id);
      this.#onEnd(upload);
    } catch (error) {
      if (stop.signal.aborted) return;
      stop.abort(); // stops the other parts of the upload
      if (error.status !== 404)
        return this.#change(id, { state: "interrupted", problem: error.message });
      this.#forget(id);
      this.#onEnd(null, new Error("The upload has expired or was aborted. Start it again."));
    }
  }

  /** Stop an upload, and let the API delete the parts that have arrived in the storage. */
  async abort(id) {
    this.#sending.get(id)?.abort();
    this.#change(id, { state: "interrupted" });
    try {
      await request("DELETE", routeOf(id));
    } catch (error) {
      if (error.status !== 404) throw error;
    }
    this.#forget(id);
  }

  #change(id, changes) {
    this.#store.set((all) => all.map((one) => (one.id === id ? { ...one, ...changes } : one)));
  }

  #forget(id) {
    this.#files.delete(id);
    this.#sending.delete(id);
    this.#store.set((all) => all.filter((one) => one.id !== id));
    localStorage.removeItem(PREFIX + id);
  }
}

const routeOf = (id) => `${ROUTE}/${encodeURIComponent(id)}`;
const interrupted = (kept) => ({ ...kept, sent: 0, state: "interrupted", problem: null });
const readKept = () =>
  Object.keys(localStorage)
    .filter((name) => name.startsWith(PREFIX))
    .map((name) => interrupted(JSON.parse(localStorage[name])));

/** Send the missing parts of an upload, and then complete the upload. */
async function send(id, file, signal, change) {
  const call = (method, more, body) =>
    repeat(() => request(method, routeOf(id) + more, { body, signal }), signal);
  const upload = await call("GET", "");
  const numbers = Array.from({ length: upload.part_count }, (_, index) => index + 1);
  const partOf = (number) =>
    file.slice((number - 1) * upload.part_bytes, number * upload.part_bytes);
  const waiting = [...upload.missing];
  const sent = new Map(numbers.map((number) => [number, partOf(number).size]));
  for (const number of waiting) sent.set(number, 0);
  const report = (number, bytes) => {
    sent.set(number, bytes);
    change({ sent: [...sent.values()].reduce((sum, one) => sum + one, 0) });
  };
  const sums = new Map();
  const sumOf = async (number) => {
    if (!sums.has(number)) sums.set(number, await hash(partOf(number)));
    return sums.get(number);
  };

  const sendPart = async (number) => {
    // Request a new signed URL for each try, because a signed URL expires.
    const body = { parts: [{ part_number: number, checksum: hex(await sumOf(number)) }] };
    const signed = await request("POST", `${routeOf(id)}/parts`, { body, signal });
    await put(signed.parts[0], partOf(number), signal, (bytes) => report(number, bytes));
    report(number, partOf(number).size);
  };
  const sendParts = async () => {
    for (let number = waiting.shift(); number; number = waiting.shift())
      await repeat(() => sendPart(number), signal);
  };
  await Promise.all(Array.from({ length: CONCURRENT_PARTS }, sendParts));
  change({ state: "finishing" });
  for (const number of numbers) await sumOf(number);
  const whole = await hash(new Blob(numbers.map((number) => sums.get(number))));
  return call("POST", "/complete", { checksum: `${hex(whole)}-${upload.part_count}` });
}

/** Call `run` again if the connection, the storage or the API has failed temporarily. */
async function repeat(run, signal) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await run();
    } catch (error) {
      if (signal.aborted || !isTransient(error) || attempt === MAX_TRIES) throw error;
      const seconds = error.retryAfter ?? Math.min(MAX_DELAY_SECONDS, 2 ** attempt / 2);
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    }
  }
}

const hash = async (blob) =>
  new Uint8Array(await crypto.subtle.digest("SHA-256", await blob.arrayBuffer()));
const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/** Send a part with `XMLHttpRequest`, because `fetch` does not report the progress of an upload. */
function put({ url, headers }, body, signal, onBytes) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted(); // the upload was stopped while the URL was requested
    const http = new XMLHttpRequest();
    signal.addEventListener("abort", () => http.abort());
    const fail = (message) => () =>
      reject(Object.assign(new Error(message), { status: http.status === 404 ? 404 : 0 }));
    http.open("PUT", url);
    for (const [name, value] of Object.entries(headers)) http.setRequestHeader(name, value);
    http.timeout = PART_TIMEOUT_MS;
    http.upload.onprogress = (event) => onBytes(event.loaded);
    http.onload = () =>
      http.status === 200 ? resolve() : fail(`Storage rejected a part (${http.status})`)();
    http.onerror = fail("Storage cannot be reached");
    http.ontimeout = fail("Storage did not respond in time");
    http.onabort = fail("Stopped");
    http.send(body);
  });
}
