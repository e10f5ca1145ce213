// Uploads from the browser, part by part straight to storage: progress, pause, resume, abort.
// They continue while other pages are open. After a reload the server is asked what has arrived: when
// all of it has, the upload is completed; otherwise the same file is chosen again.

import { createStore } from "../../lib/store.js";
import { uploads } from "./data.js";

/** @import { PartToSign, SignedPart, TrainingState, Upload } from "./routes.js" */
/**
 * @typedef {{id: string, title: string, name: string, size: number, modified: number, workspaceId: string,
 *   owner: string, sums?: Record<number, string>}} Kept What a reload keeps: the file is known by name, size
 *   and time, and `sums` are the checksums of its parts by number.
 */
/**
 * @typedef {Kept & {sent: number, state: "sending" | "paused" | "waiting" | "finishing",
 *   problem: string | null}} Running `sent` in bytes; `waiting` for its file.
 */
/**
 * @typedef {(training: TrainingState | null, error?: Error) => void} OnStarted Takes the training that an
 *   upload became; null with the reason why it became none.
 */

const KEPT = "minutehand.uploads";
const AT_ONCE = 3;
const SIGNED_AT_ONCE = 10;
const TRIES = 5;
const MOST_TRIES = 20; // calls of the API while it asks to come back
const PART_TIMEOUT_MS = 15 * 60_000;

/** Uploads that have not ended. */
export const running = createStore(
  kept().map(
    (one) => /** @type {Running} */ ({ ...one, sent: 0, state: "waiting", problem: null }),
  ),
);
/** @type {Map<string, File>} */
const files = new Map(); // an upload's file and what is being sent of it: no reload keeps these
/** @type {Map<string, AbortController>} */
const sending = new Map();

/** @returns {Kept[]} */
function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(KEPT) ?? "[]");
    return Array.isArray(found)
      ? found.filter(
          (one) =>
            typeof one?.id === "string" &&
            typeof one.name === "string" &&
            typeof one.title === "string",
        )
      : [];
  } catch {
    return []; // someone else's, or an older version's
  }
}

function keep() {
  localStorage.setItem(
    KEPT,
    JSON.stringify(
      running.get().map(({ id, title, name, size, modified, workspaceId, owner, sums }) => ({
        id,
        title,
        name,
        size,
        modified,
        workspaceId,
        owner,
        sums,
      })),
    ),
  );
}

function change(/** @type {string} */ id, /** @type {Partial<Running>} */ changes) {
  running.set((now) => now.map((one) => (one.id === id ? { ...one, ...changes } : one)));
}

function forget(/** @type {string} */ id) {
  files.delete(id);
  sending.delete(id);
  running.set((now) => now.filter((one) => one.id !== id));
  keep();
}

/**
 * Begin an upload, and start the training when it is complete.
 *
 * @param {{workspaceId: string, owner: string, title: string, file: File, onStarted?: OnStarted}} what
 */
export async function begin({ workspaceId, owner, title, file, onStarted }) {
  const made = await uploads.create({
    workspace_id: workspaceId,
    title,
    filename: file.name || "video",
    content_type: typeOf(file),
    size: file.size,
  });
  files.set(made.id, file);
  running.set((now) => [
    ...now,
    {
      id: made.id,
      title,
      name: file.name,
      size: file.size,
      modified: file.lastModified,
      workspaceId,
      owner,
      sums: {},
      sent: 0,
      state: "sending",
      problem: null,
    },
  ]);
  keep();
  send(made.id, onStarted);
}

// browsers do not know the type of every container that people record in
/** @type {Record<string, string>} */
const TYPES = {
  mkv: "video/x-matroska",
  mov: "video/quicktime",
  avi: "video/x-msvideo",
  ts: "video/mp2t",
  flac: "audio/flac",
};

function typeOf(/** @type {File} */ file) {
  if (/^[a-z0-9.+-]+\/[a-z0-9.+-]+$/.test(file.type)) return file.type;
  return (
    TYPES[/** @type {string} */ (file.name.split(".").at(-1)).toLowerCase()] ??
    "application/octet-stream"
  );
}

/**
 * Ask the server about uploads of an earlier page load, and complete those that have arrived.
 *
 * @param {{workspaceId: string, owner: string, onStarted?: OnStarted}} whose
 */
export async function recall({ workspaceId, owner, onStarted }) {
  const waiting = running
    .get()
    .filter(
      (one) => one.state === "waiting" && one.workspaceId === workspaceId && one.owner === owner,
    );
  await Promise.all(
    waiting.map(async (one) => {
      try {
        const found = await patiently(() => uploads.read(one.id));
        if (found.training) {
          forget(one.id);
          onStarted?.(found.training);
        } else if (
          found.missing.length === 0 &&
          Object.keys(one.sums ?? {}).length === found.part_count
        )
          await finish(one.id, found, onStarted);
        else change(one.id, { sent: arrivedOf(found) });
      } catch (error) {
        if (error.status === 404) forget(one.id);
        else change(one.id, { problem: error.message });
      }
    }),
  );
}

function stopSending(/** @type {string} */ id) {
  sending.get(id)?.abort();
  sending.delete(id); // so that resuming at once begins again, and does not wait for what was stopped
}

/** Stop sending; what has arrived stays. */
export function pause(/** @type {string} */ id) {
  stopSending(id);
  change(id, { state: "paused" });
}

/**
 * Continue. After a reload `file` must be the one that it began with.
 *
 * @param {string} id
 * @param {{file?: File, onStarted?: OnStarted}} [options]
 */
export async function resume(id, { file, onStarted } = {}) {
  const one = running.get().find((each) => each.id === id);
  if (!one) return;
  if (file) {
    if (file.name !== one.name || file.size !== one.size || file.lastModified !== one.modified)
      throw new Error(
        `That is not the file this upload was begun with: ${one.name}, ${one.size} bytes`,
      );
    files.set(id, file);
  }
  await send(id, onStarted);
}

/** Give an upload up, and have what arrived thrown away. */
export async function abort(/** @type {string} */ id) {
  stopSending(id);
  try {
    await uploads.abort(id);
  } catch (error) {
    if (error.status !== 404) throw error;
  }
  forget(id);
}

async function send(/** @type {string} */ id, /** @type {OnStarted | undefined} */ onStarted) {
  if (sending.has(id)) return;
  const stop = new AbortController();
  sending.set(id, stop);
  change(id, { state: "sending", problem: null });
  try {
    const upload = await sendParts(id, stop.signal);
    await finish(id, upload, onStarted);
  } catch (error) {
    if (stop.signal.aborted) return;
    stop.abort(); // the other parts on their way
    if (error.status === 404) {
      forget(id);
      onStarted?.(null, new Error("The upload has expired or was aborted; start it again"));
    } else change(id, { state: "paused", problem: error.message });
  } finally {
    if (sending.get(id) === stop) sending.delete(id);
  }
}

/**
 * Join the parts; with that the training's jobs are enqueued.
 *
 * @param {string} id
 * @param {Upload} upload
 * @param {OnStarted | undefined} onStarted
 */
async function finish(id, upload, onStarted) {
  change(id, { state: "finishing" });
  const { sums } = running.get().find((each) => each.id === id) ?? {};
  if (!sums) return;
  const done = upload.training
    ? upload
    : await patiently(async () => uploads.complete(id, await sumOf(sums, upload.part_count)));
  forget(id);
  onStarted?.(done.training);
}

const arrivedOf = (/** @type {Upload} */ upload) =>
  upload.size_bytes - upload.missing.reduce((sum, number) => sum + bytesIn(upload, number), 0);
const bytesIn = (/** @type {Upload} */ upload, /** @type {number} */ number) =>
  Math.min(upload.part_bytes, upload.size_bytes - (number - 1) * upload.part_bytes);

/**
 * Repeat a call while the server asks for it: 503, 429 and no answer at all.
 *
 * @template T
 * @param {() => Promise<T>} call
 * @param {AbortSignal} [signal]
 * @returns {Promise<T>}
 */
async function patiently(call, signal) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await call();
    } catch (error) {
      const isPassing = error.status === 503 || error.status === 429 || error.status === 0;
      if (signal?.aborted || !isPassing || attempt >= MOST_TRIES) throw error;
      await new Promise((resolve) =>
        setTimeout(resolve, (error.retryAfter ?? Math.min(30, 2 ** attempt / 2)) * 1000),
      );
    }
  }
}

// Checksums: SHA-256 of each part, in base64; and of all of those together, which names the file

async function hash(/** @type {BufferSource} */ bytes) {
  const found = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return btoa(String.fromCharCode(...found));
}

async function sumOf(/** @type {Record<number, string>} */ sums, /** @type {number} */ count) {
  const parts = Array.from({ length: count }, (_, index) => atob(sums[index + 1]));
  const all = Uint8Array.from(parts.join(""), (letter) => letter.charCodeAt(0));
  return `${await hash(all)}-${count}`;
}

async function sendParts(/** @type {string} */ id, /** @type {AbortSignal} */ signal) {
  const file = /** @type {File} */ (files.get(id));
  const upload = await patiently(() => uploads.read(id, signal), signal);
  if (upload.complete) return upload;
  /** @type {Record<number, string>} */
  const sums = { ...running.get().find((each) => each.id === id)?.sums };
  const sumsOf = async (/** @type {number} */ number) => {
    if (!sums[number]) {
      const from = (number - 1) * upload.part_bytes;
      sums[number] = await hash(await file.slice(from, from + upload.part_bytes).arrayBuffer());
      change(id, { sums });
      keep(); // so that a page that returns can complete what has arrived
    }
    return sums[number];
  };
  const left = [...upload.missing];
  const bytesOf = (/** @type {number} */ number) => bytesIn(upload, number);
  let arrived = arrivedOf(upload);
  /** @type {Map<number, number>} */
  const partial = new Map();
  const announce = () => {
    if (!signal.aborted)
      change(id, { sent: arrived + [...partial.values()].reduce((sum, value) => sum + value, 0) });
  };
  /** @type {Map<number, SignedPart>} */
  const signed = new Map();
  /** @type {Promise<void> | null} */
  let signing = null;
  const urlOf = async (/** @type {number} */ number) => {
    while (!signed.has(number)) {
      // one request for the next few, however many senders ask
      signing ??= signNext([number, ...left.slice(0, SIGNED_AT_ONCE - 1)]).finally(() => {
        signing = null;
      });
      await signing;
    }
    const part = /** @type {SignedPart} */ (signed.get(number));
    signed.delete(number); // an address is used once: a second try asks for a fresh one
    return part;
  };
  const signNext = async (/** @type {number[]} */ numbers) => {
    /** @type {PartToSign[]} */
    const parts = [];
    for (const part_number of numbers)
      parts.push({ part_number, checksum: await sumsOf(part_number) });
    const answer = await patiently(() => uploads.sign(id, parts, signal), signal);
    for (const part of answer.parts) signed.set(part.part_number, part);
  };
  const sender = async () => {
    while (left.length > 0 && !signal.aborted) {
      const number = /** @type {number} */ (left.shift());
      const from = (number - 1) * upload.part_bytes;
      for (let attempt = 1; ; attempt += 1) {
        try {
          await put(
            await urlOf(number),
            file.slice(from, from + bytesOf(number)),
            signal,
            (bytes) => {
              partial.set(number, bytes);
              announce();
            },
          );
          break;
        } catch (error) {
          partial.delete(number);
          announce();
          if (signal.aborted || attempt >= TRIES || error.status === 404) throw error;
          await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** attempt));
        }
      }
      partial.delete(number);
      arrived += bytesOf(number);
      announce();
    }
  };
  announce();
  await Promise.all(Array.from({ length: AT_ONCE }, sender));
  signal.throwIfAborted();
  for (let number = 1; number <= upload.part_count; number += 1) await sumsOf(number); // of parts sent before
  return upload;
}

/**
 * Send a part by XMLHttpRequest, since fetch does not report how much of a body has been sent.
 *
 * @param {SignedPart} part
 * @param {Blob} body
 * @param {AbortSignal} signal
 * @param {(sent: number) => void} onBytes
 */
function put({ url, headers }, body, signal, onBytes) {
  return new Promise((/** @type {(value?: void) => void} */ resolve, reject) => {
    signal.throwIfAborted(); // stopped while the address was asked for
    const call = new XMLHttpRequest();
    const stop = () => call.abort();
    signal.addEventListener("abort", stop);
    const end = (/** @type {string | null} */ error) => {
      signal.removeEventListener("abort", stop);
      if (error) reject(Object.assign(new Error(error), { status: call.status }));
      else resolve();
    };
    call.open("PUT", url);
    for (const [name, value] of Object.entries(headers)) call.setRequestHeader(name, value);
    call.timeout = PART_TIMEOUT_MS;
    call.upload.onprogress = (event) => onBytes(event.loaded);
    call.onload = () => end(call.status === 200 ? null : `Storage refused a part (${call.status})`);
    call.onerror = () => end("Storage cannot be reached");
    call.ontimeout = () => end("Storage did not answer in time");
    call.onabort = () => end("Stopped");
    call.send(body);
  });
}
