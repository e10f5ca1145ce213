// A `ChatTransport` for `useChat` of the AI SDK: an answer is a job, its words are a stream of it.

import { cancel, enqueue } from "./jobs/changes.js";
import { call } from "./jobs/client.js";
import { outputOf } from "./jobs/pieces.js";
import { ENDED } from "./jobs/sequence.js";

const STREAM = "reply";
/** An answer that has ended since may be missing from the messages that a page began with. */
const RECENT_MS = 60_000;

/**
 * Answers by jobs of one type, whose session is the chat.
 *
 * A job continues without its page; a chat that resumes reads its words from the beginning. An abort
 * cancels it, but for one by which a chat begins to read again.
 */
export class JobChatTransport {
  resumeStreamIsReplay = true;
  #client;
  #jobType;
  #payloadOf;
  #stream;
  #options; // of each job
  #resumes = new Map(); // by chat, how often it began to read again
  #finished = new Set(); // jobs whose end was shown

  constructor(client, jobType, { payload = saidIn, stream = STREAM, ...options }) {
    this.#client = client;
    this.#jobType = jobType;
    this.#payloadOf = payload;
    this.#stream = stream;
    this.#options = options;
  }

  async sendMessages({ chatId, messages, trigger, messageId, abortSignal, body, metadata }) {
    const last = messages.at(-1);
    const payload = await this.#payloadOf({ chatId, messages, trigger, body, metadata });
    // what is new is sent once more if no one answered: the first job of its key is the only one
    const isNew = trigger === "submit-message" && !messageId && last?.role === "user";
    const options = {
      ...this.#options,
      session_id: chatId,
      idempotency_key: isNew ? `${chatId}:${last.id}` : undefined,
    };
    const send = () => enqueue(this.#client, this.#jobType, payload, options);
    const sent = send().catch((error) => (isNew && error.isAway ? send() : Promise.reject(error)));
    this.#cancelIfStopped(chatId, abortSignal, sent);
    const { job } = await sent;
    // an answer that continues a message has its id: another would be a second message
    const said = last?.role === "assistant" ? { id: last.id } : { id: job.id };
    return this.#chunks(job, said, abortSignal);
  }

  async reconnectToStream({ chatId, abortSignal }) {
    this.#resumes.set(chatId, this.#resumesOf(chatId) + 1);
    const found = newestJob(this.#client, this.#jobType, chatId, this.#options);
    this.#cancelIfStopped(
      chatId,
      abortSignal,
      found.then((job) => ({ job })),
    );
    const job = await found;
    if (!job || this.#finished.has(job.id)) return null;
    const isOver = ENDED.has(job.status);
    if (isOver && Date.parse(job.finished_at) < Date.now() - RECENT_MS) return null;
    return this.#chunks(job, continuedBy(job) ?? { id: job.id }, abortSignal);
  }

  #resumesOf(chatId) {
    return this.#resumes.get(chatId) ?? 0;
  }

  /** A chat that resumes aborts what it read before in the same task: that is no stop. */
  #cancelIfStopped(chatId, signal, made) {
    const { schema } = this.#options;
    const stop = () => {
      const before = this.#resumesOf(chatId);
      setTimeout(() => {
        if (this.#resumesOf(chatId) !== before) return;
        made.then(({ job }) => job && cancel(this.#client, job.id, { schema })).catch(() => {}); // there is none, or it has ended
      });
    };
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  }

  #chunks(job, message, abortSignal) {
    const { schema } = this.#options;
    const left = new AbortController();
    const leave = () => left.abort();
    if (abortSignal?.aborted) leave();
    else abortSignal?.addEventListener("abort", leave, { once: true });
    const read = { schema, signal: left.signal };
    const chunks = chunksOf(job.id, outputOf(this.#client, job.id, this.#stream, read), message);
    return new ReadableStream({
      pull: async (controller) => {
        const { done, value } = await chunks.next();
        if (!done) return controller.enqueue(value);
        this.#finished.add(job.id);
        controller.close();
      },
      cancel: leave,
    });
  }
}

/** What the SDK makes a message of; after `parts`, which it had before. */
async function* chunksOf(job, pieces, { id: messageId, parts = [] }) {
  let open = null; // the part of text that grows
  const begin = (id, attempt) => {
    open = id;
    const providerMetadata = { minutehand: { job, attempt } };
    return { type: "text-start", id, ...(attempt ? { providerMetadata } : {}) };
  };
  const grow = (delta) => ({ type: "text-delta", id: open, delta });
  const end = () => {
    const ended = open === null ? [] : [{ type: "text-end", id: open }];
    open = null;
    return ended;
  };

  yield { type: "start", messageId };
  for (const [n, { text }] of parts.entries()) yield* [begin(`before-${n}`), grow(text), ...end()];
  yield { type: "start-step" };
  let next;
  while (!(next = await pieces.next()).done) {
    const { attempt, from, text } = next.value;
    // another attempt; versions of the SDK that do not know the chunk keep the part, see `textOf`
    if (from === 0 && open !== null) yield* [...end(), { type: "reset-step" }];
    if (!text) continue;
    if (open === null) yield begin(`attempt-${attempt}`, attempt);
    yield grow(text);
  }
  yield* [...end(), { type: "finish-step" }];
  const { status, error_message: errorText } = next.value;
  if (status === "failed") yield { type: "error", errorText: errorText ?? "The job failed" };
  else yield { type: "finish", finishReason: status === "completed" ? "stop" : "other" };
}

/**
 * The messages of a chat, for the page that opens it: what its newest job was given, and what that
 * one has said if it has ended. What is still being said comes by `resume`.
 */
export async function chatMessages(client, jobType, chatId, { stream = STREAM, ...options } = {}) {
  const job = await newestJob(client, jobType, chatId, options);
  if (!job) return [];
  const messages = messagesIn(job);
  if (!ENDED.has(job.status)) return messages;
  const text = await readOutput(client, job.id, stream, options);
  if (!text) return messages;
  const continued = continuedBy(job);
  return continued
    ? [...messages.slice(0, -1), { ...continued, parts: [...continued.parts, textPart(text)] }]
    : [...messages, { id: job.id, role: "assistant", parts: [textPart(text)] }];
}

/** A message's text, without what an attempt said that began again. */
export function textOf({ parts }) {
  const texts = parts.filter(({ type }) => type === "text");
  const source = (part) => part.providerMetadata?.minutehand ?? {};
  const isDead = (part) =>
    texts.some(
      (other) =>
        source(other).job === source(part).job && source(other).attempt > source(part).attempt,
    );
  return texts
    .filter((part) => !isDead(part))
    .map(({ text }) => text)
    .join("");
}

/** The payload where no other is made: what was said, in the form that models are given. */
const saidIn = ({ messages }) => ({
  messages: messages.map((message) => {
    const { id, role } = message;
    return { id, role, content: textOf(message) };
  }),
});

const textPart = (text) => ({ type: "text", text });
const messagesIn = ({ payload }) =>
  (payload?.messages ?? []).map(({ id, role, content }) => ({
    id,
    role,
    parts: [textPart(content)],
  }));

/** The message that a job's answer continues, where it is no message of its own. */
function continuedBy(job) {
  const last = messagesIn(job).at(-1);
  return last?.role === "assistant" ? last : null;
}

/** With its payload; null where the chat has none. */
async function newestJob(client, job_type, session_id, { schema, workspace_id }) {
  const asked = { p_filter: { session_id, job_type, workspace_id }, p_limit: 1 };
  const isWhole = (data) => Array.isArray(data?.jobs);
  const { jobs } = await call(client, schema, "list_jobs", asked, { isWhole });
  return jobs.length > 0 ? call(client, schema, "get_job", { p_job_id: jobs[0].id }) : null;
}

async function readOutput(client, jobId, stream, { schema }) {
  let text = "";
  for (let from = 0, more = true; more; ) {
    const asked = { p_job_id: jobId, p_stream: stream, p_from: from };
    const page = await call(client, schema, "job_output", asked);
    text += page.text ?? "";
    ({ next: from, more } = page);
  }
  return text;
}
