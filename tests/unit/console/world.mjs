// The server's side of a watch, in memory: jobs, their events, and a socket that misbehaves.

import assert from "node:assert/strict";
import { mock } from "node:test";

const PAGE = 500;
export const TERMS = { quiet: false, checkMs: 0 };

/** A small generator of repeatable randomness (mulberry32). */
export function randomness(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export async function until(holds, what, patience = 30_000) {
  const giveUp = Date.now() + patience;
  while (!holds()) {
    if (Date.now() > giveUp) throw new Error(`never: ${what}`);
    await sleep(5);
  }
}

export const turn = () => new Promise(setImmediate); // the real one, taken before time is made up

/** Time that is made up (`mock.timers`) passes, in steps after which everything may happen. */
export async function leap(ms, step = 10) {
  for (let left = ms; left > 0; left -= step) {
    mock.timers.tick(Math.min(step, left));
    await turn();
  }
}

export async function leapUntil(holds, what, most = 120_000, step = 10) {
  for (let left = most; !holds(); left -= step) {
    assert.ok(left > 0, `never: ${what}`);
    await leap(step, step);
  }
}

/** A job with a history, what reads of it answer, and the topic it is told on. */
export class World {
  constructor({ random = Math.random, drop = 0, repeat = 0, delay = 0 } = {}) {
    Object.assign(this, { random, drop, repeat, delay });
    this.job = {
      id: "j1",
      status: "pending",
      attempts: 0,
      last_seq: 0,
      progress: null,
      result: null,
    };
    this.events = [];
    this.listeners = new Set();
    this.connected = false;
    this.reachable = true;
    this.readCount = 0;
    this.reconnects = 0;
    this.nudges = 0;
    this.reads = {
      job: async () => (this.#read(), this.job && { ...this.job }),
      events: async (_id, seq, limit = PAGE) => (
        this.#read(),
        this.events.filter((event) => event.seq > seq).slice(0, limit)
      ),
    };
    this.topics = {
      join: (_topic, listener) => {
        this.listeners.add(listener);
        if (this.connected) queueMicrotask(() => listener.joined(TERMS, false));
        return () => this.listeners.delete(listener);
      },
      nudge: async () => void (this.nudges += 1),
      reconnect: async () => {
        this.reconnects += 1;
        this.cut();
        this.connect();
      },
    };
  }

  #read() {
    this.readCount += 1;
    if (!this.reachable) throw Object.assign(new Error("away"), { reachable: false });
  }

  connect({ isDeaf = false } = {}) {
    this.connected = true;
    for (const listener of [...this.listeners]) listener.joined(TERMS, isDeaf);
  }

  cut() {
    this.connected = false;
    for (const listener of [...this.listeners]) listener.lost("cut");
  }

  /** Commit an event: into the log and the row at once, to the socket if it behaves. */
  commit(type, data = {}) {
    const seq = this.job.last_seq + 1;
    this.job = { ...this.job, ...pick(data), last_seq: seq };
    if (type === "job.completed") this.job.result = { answer: 42 };
    if (["completed", "failed", "cancelled"].includes(this.job.status))
      this.job.completed_at = "2026-11-20T08:00:00Z";
    const row = { job_id: "j1", seq, type, data, created_at: "2026-11-20T08:00:00Z" };
    this.events.push(row);
    if (!this.connected || this.random() < this.drop) return;
    const { created_at: at, ...frame } = row;
    for (let copies = this.random() < this.repeat ? 2 : 1; copies > 0; copies -= 1) {
      const send = () =>
        this.connected && this.listeners.forEach((listener) => listener.message({ ...frame, at }));
      if (this.delay > 0) setTimeout(send, this.random() * this.delay);
      else send();
    }
  }
}

const pick = ({ status, attempts, progress, error_message }) =>
  Object.fromEntries(
    Object.entries({ status, attempts, progress, error_message }).filter(
      ([, value]) => value !== undefined,
    ),
  );

/** A supabase-js client whose channels the test opens, closes and speaks on; what was asked of it. */
export function clientOf(answer = null) {
  const asked = {
    heard: [],
    opened: [],
    left: [],
    followed: [],
    calls: [],
    on: {},
    state() {},
    gone() {},
  };
  const note = (name) => async () => (await turn(), void asked.calls.push(name));
  const channel = (topic) => ({
    topic,
    on: (kind, _filter, take) => {
      asked.on[kind] = take;
      if (kind === "broadcast") asked.heard.push(take);
    },
    subscribe: (state) => (asked.state = state),
  });
  const client = {
    realtime: {
      setAuth: note("token"),
      isConnected: () => asked.isConnected ?? true,
      connect: () => void asked.calls.push("connect"),
      disconnect: async () => (await turn(), note("disconnect")()),
    },
    channel: (topic, { config }) => {
      asked.calls.push("channel");
      asked.opened.push(topic);
      asked.config = config;
      return channel(topic);
    },
    removeChannel: ({ topic }) => (
      asked.left.push(topic),
      new Promise((resolve) => (asked.gone = resolve))
    ),
    schema: (schema) => ({
      rpc: (name, values) => {
        asked.followed.push({ schema, name, ...values });
        return { abortSignal: async () => ({ data: await answer }) };
      },
    }),
  };
  return { client, asked };
}
