// Uploads from the browser, part by part straight to storage: progress, pause, resume, abort.
// They go on while other pages are open; after a reload the same file is chosen again.

import { createStore } from "../../lib/store.js";
import { trainings, uploads } from "./data.js";

const KEPT = "minutehand.uploads";
const AT_ONCE = 3;
const SIGNED_AT_ONCE = 10;
const TRIES = 5;
const PART_TIMEOUT_MS = 15 * 60_000;

/** Uploads that have not ended: `{id, title, name, size, sent, state, problem, workspaceId}`; state is sending, paused, waiting (for its file) or finishing. */
export const running = createStore(kept().map((one) => ({ ...one, sent: 0, state: "waiting", problem: null })));
const files = new Map(); // an upload's file and what is being sent of it: no reload keeps these
const sending = new Map();

function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(KEPT) ?? "[]");
    return Array.isArray(found) ? found.filter((one) => typeof one?.id === "string" && typeof one.name === "string" && typeof one.title === "string") : [];
  } catch {
    return []; // somebody else's, or an older version's
  }
}

function keep() {
  localStorage.setItem(KEPT, JSON.stringify(running.get().map(({ id, key, title, name, size, modified, workspaceId, owner }) => ({ id, key, title, name, size, modified, workspaceId, owner }))));
}

function change(id, changes) {
  running.set((now) => now.map((one) => (one.id === id ? { ...one, ...changes } : one)));
}

function forget(id) {
  files.delete(id);
  sending.delete(id);
  running.set((now) => now.filter((one) => one.id !== id));
  keep();
}

/** Begin an upload, and start the training when it is complete. */
export async function begin({ workspaceId, owner, title, file, onStarted }) {
  const made = await uploads.create({ workspace_id: workspaceId, filename: file.name || "video", content_type: /^[a-z0-9.+-]+\/[a-z0-9.+-]+$/.test(file.type) ? file.type : "application/octet-stream", size_bytes: file.size });
  files.set(made.id, file);
  running.set((now) => [...now, { id: made.id, key: made.key, title, name: file.name, size: file.size, modified: file.lastModified, workspaceId, owner, sent: 0, state: "sending", problem: null }]);
  keep();
  send(made.id, onStarted);
}

function stopSending(id) {
  sending.get(id)?.abort();
  sending.delete(id); // so that to go on at once begins anew, not waits for what was stopped
}

/** Stop sending; what has arrived stays. */
export function pause(id) {
  stopSending(id);
  change(id, { state: "paused" });
}

/** Go on. After a reload `file` must be the one that was begun with. */
export async function resume(id, { file, onStarted } = {}) {
  const one = running.get().find((each) => each.id === id);
  if (!one) return;
  if (file) {
    if (file.name !== one.name || file.size !== one.size || file.lastModified !== one.modified) throw new Error(`That is not the file this upload was begun with: ${one.name}, ${one.size} bytes`);
    files.set(id, file);
  }
  await send(id, onStarted);
}

/** Give an upload up, and have what arrived thrown away. */
export async function abort(id) {
  stopSending(id);
  try {
    await uploads.abort(id);
  } catch (error) {
    if (error.status !== 404) throw error;
  }
  forget(id);
}

async function send(id, onStarted) {
  if (sending.has(id)) return;
  const stop = new AbortController();
  sending.set(id, stop);
  change(id, { state: "sending", problem: null });
  try {
    await sendParts(id, stop.signal);
    change(id, { state: "finishing" });
    const done = await uploads.complete(id);
    const one = running.get().find((each) => each.id === id);
    if (!one) return;
    const made = await trainings.start({ workspace_id: one.workspaceId, title: one.title, object_key: done.key });
    forget(id);
    onStarted?.(made);
  } catch (error) {
    if (stop.signal.aborted) return;
    stop.abort(); // the other parts on their way
    if (error.status === 404) {
      forget(id);
      onStarted?.(null, new Error("The upload has lapsed or was aborted; begin it anew"));
    } else change(id, { state: "paused", problem: error.message });
  } finally {
    if (sending.get(id) === stop) sending.delete(id);
  }
}

async function sendParts(id, signal) {
  const file = files.get(id);
  const upload = await uploads.read(id, signal);
  if (upload.complete) return;
  const left = [...upload.missing];
  const bytesOf = (number) => Math.min(upload.part_bytes, file.size - (number - 1) * upload.part_bytes);
  let arrived = file.size - left.reduce((sum, number) => sum + bytesOf(number), 0);
  const partial = new Map();
  const tell = () => {
    if (!signal.aborted) change(id, { sent: arrived + [...partial.values()].reduce((sum, value) => sum + value, 0) });
  };
  const signed = new Map();
  let signing = null;
  const urlOf = async (number) => {
    while (!signed.has(number)) {
      // one request for the next few, however many senders ask
      signing ??= uploads.sign(id, [number, ...left.slice(0, SIGNED_AT_ONCE - 1)], signal).then((answer) => {
        for (const part of answer.parts) signed.set(part.part_number, part.url);
      }).finally(() => { signing = null; });
      await signing;
    }
    const url = signed.get(number);
    signed.delete(number); // an address is used once: a second try asks for a fresh one
    return url;
  };
  const sender = async () => {
    while (left.length > 0 && !signal.aborted) {
      const number = left.shift();
      const from = (number - 1) * upload.part_bytes;
      for (let attempt = 1; ; attempt += 1) {
        try {
          await put(await urlOf(number), file.slice(from, from + bytesOf(number)), signal, (bytes) => { partial.set(number, bytes); tell(); });
          break;
        } catch (error) {
          partial.delete(number);
          tell();
          if (signal.aborted || attempt >= TRIES || error.status === 404) throw error;
          await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** attempt));
        }
      }
      partial.delete(number);
      arrived += bytesOf(number);
      tell();
    }
  };
  tell();
  await Promise.all(Array.from({ length: AT_ONCE }, sender));
  signal.throwIfAborted();
}

// XMLHttpRequest, since fetch does not tell how much of a body has been sent
function put(url, body, signal, onBytes) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted(); // stopped while the address was asked for
    const call = new XMLHttpRequest();
    const stop = () => call.abort();
    signal.addEventListener("abort", stop);
    const end = (error) => {
      signal.removeEventListener("abort", stop);
      if (error) reject(Object.assign(new Error(error), { status: call.status }));
      else resolve();
    };
    call.open("PUT", url);
    call.timeout = PART_TIMEOUT_MS;
    call.upload.onprogress = (event) => onBytes(event.loaded);
    call.onload = () => end(call.status === 200 ? null : `Storage refused a part (${call.status})`);
    call.onerror = () => end("Storage cannot be reached");
    call.ontimeout = () => end("Storage did not answer in time");
    call.onabort = () => end("Stopped");
    call.send(body);
  });
}
