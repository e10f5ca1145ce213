/**
 * Uploads from the browser to routes of `minutehand.web.uploads`, part by part straight to storage.
 *
 * Published as `minutehand/uploads`. Uploads continue while other pages are open; after a reload
 * the server is asked what has arrived: when all has, the upload is completed; otherwise the same
 * file is chosen again, and parts that arrived are not sent again.
 *
 * @example
 * const uploads = uploadsAt("/api/memos/uploads", { token, onEnd: (memo) => show(memo) });
 * uploads.subscribe((all) => draw(all)); // sent, size, state, problem of each
 * await uploads.recall(); // those of an earlier page load
 * input.onchange = () => uploads.begin(input.files[0], { workspace_id });
 */

import { notify } from "./jobs/follower.js";

const AT_ONCE = 3;
const TRIES = 5;
const MOST_TRIES = 20; // calls of the API while it asks to come back
const CALL_TIMEOUT_MS = 20_000;
const PART_TIMEOUT_MS = 15 * 60_000;

/**
 * The uploads of this browser to one place, those of an earlier page load included.
 *
 * Make it once for a page. `get` and `subscribe` give the uploads that have not ended.
 */
export function uploadsAt(url, { token = () => null, request = requestAs(token), onEnd }) {
  const place = `minutehand.uploads ${url} `; // and the upload's id: other tabs keep theirs
  let running = keptAt(place).map((one) => ({ ...one, sent: 0, state: "waiting", problem: null }));
  const listeners = new Set();
  const files = new Map(); // an upload's file and what is being sent of it: no reload keeps these
  const sending = new Map();

  const set = (next) => {
    running = next;
    for (const listener of [...listeners]) notify(listener, next);
  };
  const find = (id) => running.find((one) => one.id === id);
  // where it was is not read back
  const keep = (id) => {
    const one = find(id); // unless it was forgotten while a part was summed
    if (one) localStorage.setItem(place + id, JSON.stringify(one));
  };
  const change = (id, changes) =>
    set(running.map((one) => (one.id === id ? { ...one, ...changes } : one)));
  const forget = (id) => {
    files.delete(id);
    sending.delete(id);
    set(running.filter((one) => one.id !== id));
    localStorage.removeItem(place + id);
  };
  const call = (method, id, more = "", body = undefined, signal = undefined) =>
    patiently(
      () => request(method, `${url}/${encodeURIComponent(id)}${more}`, { body, signal }),
      signal,
    );

  /** Send what is missing, and join the parts. */
  async function send(id) {
    if (sending.has(id)) return;
    const stop = new AbortController();
    sending.set(id, stop);
    change(id, { state: "sending", problem: null });
    try {
      const upload = await call("GET", id, "", undefined, stop.signal);
      await sendParts(id, upload, stop.signal);
      await finish(id, upload);
    } catch (error) {
      if (stop.signal.aborted) return;
      stop.abort(); // the other parts on their way
      fail(id, error);
    } finally {
      if (sending.get(id) === stop) sending.delete(id);
    }
  }

  async function finish(id, upload) {
    const one = find(id);
    if (!one) return; // abandoned meanwhile
    change(id, { state: "finishing" });
    const checksum = await sumOf(one.sums, upload.part_count);
    const done = await call("POST", id, "/complete", { checksum });
    forget(id);
    notify(onEnd, done);
  }

  function fail(id, error) {
    if (error.status === 404) {
      forget(id);
      notify(onEnd, null, new Error("The upload has expired or was aborted; start it again"));
    } else change(id, { state: "paused", problem: error.message });
  }

  async function sendParts(id, upload, signal) {
    const file = files.get(id);
    const sums = { ...find(id)?.sums };
    const left = [...upload.missing];
    let arrived = arrivedOf(upload);
    const partial = new Map();
    const partOf = (number) => {
      const from = (number - 1) * upload.part_bytes;
      return file.slice(from, from + bytesIn(upload, number));
    };
    const sumOfPart = async (number) => {
      if (!sums[number]) {
        sums[number] = await hash(await partOf(number).arrayBuffer());
        change(id, { sums: { ...sums } });
        keep(id); // so that a page that returns can complete what has arrived
      }
      return sums[number];
    };
    const announce = () => {
      if (signal.aborted) return;
      change(id, { sent: arrived + [...partial.values()].reduce((sum, value) => sum + value, 0) });
    };
    const sendPart = async (number) => {
      // an address is used once: a second try asks for a fresh one
      const parts = [{ part_number: number, checksum: await sumOfPart(number) }];
      const signed = await call("POST", id, "/parts", { parts }, signal);
      await put(signed.parts[0], partOf(number), signal, (bytes) => {
        partial.set(number, bytes);
        announce();
      });
    };
    const sender = async () => {
      for (let number = left.shift(); number && !signal.aborted; number = left.shift()) {
        for (let attempt = 1; ; attempt += 1) {
          try {
            await sendPart(number);
            break;
          } catch (error) {
            partial.delete(number);
            announce();
            if (signal.aborted || attempt >= TRIES || statusOf(error) === 404) throw error;
            await pauseOf(0.5 * 2 ** attempt);
          }
        }
        partial.delete(number);
        arrived += bytesIn(upload, number);
        announce();
      }
    };
    announce();
    await Promise.all(Array.from({ length: AT_ONCE }, sender));
    signal.throwIfAborted();
    for (let number = 1; number <= upload.part_count; number += 1) await sumOfPart(number);
  }

  function stopSending(id) {
    sending.get(id)?.abort();
    sending.delete(id); // so that resuming at once begins again
  }

  return {
    get: () => running,
    /** Have `listener` called with all uploads at each change; returns what ends that. */
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },

    /** Begin an upload; returns when sending has begun. Sizes, types and names are refused here. */
    async begin(file, fields, whose = "") {
      const { id, title } = await request("POST", url, {
        body: {
          filename: file.name || "file",
          content_type: file.type || "application/octet-stream",
          size: file.size,
          ...fields,
        },
      });
      files.set(id, file);
      const known = { name: file.name, size: file.size, modified: file.lastModified };
      const begun = { id, title, ...known, whose, sums: {}, sent: 0, problem: null };
      set([...running, { ...begun, state: "sending" }]);
      keep(id);
      send(id);
    },

    /** Ask about uploads of an earlier page load, and complete those that have arrived. */
    async recall(whose = "") {
      const waiting = running.filter((one) => one.state === "waiting" && one.whose === whose);
      await Promise.all(
        waiting.map(async ({ id, sums }) => {
          try {
            const found = await call("GET", id);
            const isKnown = Object.keys(sums).length === found.part_count;
            if (found.missing.length === 0 && isKnown) await finish(id, found);
            else change(id, { sent: arrivedOf(found) });
          } catch (error) {
            if (statusOf(error) === 404) forget(id);
            else change(id, { state: "waiting", problem: error.message });
          }
        }),
      );
    },

    /** Stop sending; what has arrived stays. */
    pause(id) {
      stopSending(id);
      change(id, { state: "paused" });
    },

    /** Continue. After a reload `file` must be the one that it began with. */
    async resume(id, file = undefined) {
      const one = find(id);
      if (!one) return;
      if (file) {
        if (file.name !== one.name || file.size !== one.size || file.lastModified !== one.modified)
          throw new Error(
            `That is not the file this upload was begun with: ${one.name}, ${one.size} bytes`,
          );
        files.set(id, file);
      }
      await send(id);
    },

    /** Give an upload up, and have what arrived thrown away. */
    async abort(id) {
      stopSending(id);
      try {
        await request("DELETE", `${url}/${encodeURIComponent(id)}`, {});
      } catch (error) {
        if (statusOf(error) !== 404) throw error;
      }
      forget(id);
    },
  };
}

/** What earlier page loads and other tabs keep. */
function keptAt(place) {
  return Object.keys(localStorage)
    .filter((name) => name.startsWith(place))
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

const arrivedOf = (upload) =>
  upload.size_bytes - upload.missing.reduce((sum, number) => sum + bytesIn(upload, number), 0);
const bytesIn = (upload, number) =>
  Math.min(upload.part_bytes, upload.size_bytes - (number - 1) * upload.part_bytes);
const statusOf = (error) => error?.status;
const pauseOf = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** Repeat a call while the server asks for it: 503, 429 and no answer at all. */
async function patiently(call, signal) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await call();
    } catch (error) {
      const isPassing = [0, 429, 503].includes(error.status);
      if (signal?.aborted || !isPassing || attempt >= MOST_TRIES) throw error;
      await pauseOf(error.retryAfter ?? Math.min(30, 2 ** attempt / 2));
    }
  }
}

/** Calls of the API with an access token. */
const requestAs =
  (token) =>
  async (method, url, { body, signal }) => {
    const timeout = AbortSignal.timeout(CALL_TIMEOUT_MS);
    const asked = {
      method,
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${await token()}` },
      body: body ? JSON.stringify(body) : null,
      signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
    };
    const answer = await fetch(url, asked).catch((error) => {
      throw signal?.aborted ? error : failed("The server cannot be reached", 0);
    });
    if (answer.ok) return answer.status === 204 ? null : answer.json();
    const said = await answer.json().catch(() => ({})); // a gateway's own page
    const retryAfter = Number.parseInt(answer.headers.get("Retry-After") ?? "", 10);
    throw Object.assign(
      failed(said.error ?? `The server answered ${answer.status}`, answer.status),
      {
        code: said.code ?? null,
        detail: said.detail ?? null,
        ...(Number.isNaN(retryAfter) ? {} : { retryAfter }),
      },
    );
  };

const failed = (message, status) => Object.assign(new Error(message), { status });

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
    const call = new XMLHttpRequest();
    const stop = () => call.abort();
    signal.addEventListener("abort", stop);
    const end = (problem) => {
      signal.removeEventListener("abort", stop);
      if (problem) reject(failed(problem, call.status));
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
