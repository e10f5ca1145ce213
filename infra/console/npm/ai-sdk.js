// A `ChatTransport` for `useChat` of the AI SDK. Each reply is a job, and the content of the reply
// is a stream of this job.

import { readUIMessageStream } from "ai";
import { cancel, enqueue } from "./jobs/changes.js";
import { call } from "./jobs/client.js";
import { outputOf } from "./jobs/pieces.js";
import { ENDED } from "./jobs/sequence.js";

const STREAM = "reply";
/**
 * Time in milliseconds after the end of a reply. Within this time, the messages that a page has
 * loaded may lack the reply.
 */
const RECENT_MS = 60_000;

/**
 * Transport for which each reply is a job of one type. The session of the jobs is the id of the
 * chat.
 *
 * A job continues when its page closes. If a chat resumes, it reads the text from the beginning. An
 * abort cancels the job, unless the chat aborts because it resumes.
 */
export class JobChatTransport {
  resumeStreamIsReplay = true;
  #client;
  #jobType;
  #payloadOf;
  #stream;
  #options; // options of each job
  #resumes = new Map(); // number of resumes by chat
  #finished = new Set(); // ids of jobs whose end was shown

  constructor(client, jobType, { payload = defaultPayload, stream = STREAM, ...options }) {
    this.#client = client;
    this.#jobType = jobType;
    this.#payloadOf = payload;
    this.#stream = stream;
    this.#options = options;
  }

  async sendMessages({ chatId, messages, trigger, messageId, abortSignal, body, metadata }) {
    const last = messages.at(-1);
    const payload = await this.#payloadOf({ chatId, messages, trigger, body, metadata });
    // If no response arrives, a new message is sent again. Its idempotency key prevents a second
    // job.
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
    // If a reply continues a message, it keeps the message's id, because another id would add a
    // second message.
    const message =
      last?.role === "assistant" ? { id: last.id, tools: last.parts } : { id: job.id };
    return this.#chunks(job, message, abortSignal);
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

  /** On an abort, cancel the job, unless the chat resumes in the same task. */
  #cancelIfStopped(chatId, signal, sent) {
    const { schema } = this.#options;
    const stop = () => {
      const before = this.#resumesOf(chatId);
      setTimeout(() => {
        if (this.#resumesOf(chatId) !== before) return;
        // an error means that the job does not exist or has ended
        sent.then(({ job }) => job && cancel(this.#client, job.id, { schema })).catch(() => {});
      });
    };
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  }

  #chunks(job, message, abortSignal) {
    const { schema } = this.#options;
    const reading = new AbortController();
    const stop = () => reading.abort();
    if (abortSignal?.aborted) stop();
    else abortSignal?.addEventListener("abort", stop, { once: true });
    const options = { schema, signal: reading.signal };
    const pieces = outputOf(this.#client, job.id, this.#stream, options);
    const onEnd = () => this.#finished.add(job.id);
    return streamOf(chunksOf(job.id, pieces, message), { onEnd, onCancel: stop });
  }
}

/** Convert an async iterator to a stream. */
const streamOf = (chunks, { onEnd, onCancel } = {}) =>
  new ReadableStream({
    pull: async (controller) => {
      const { done, value } = await chunks.next();
      if (!done) return controller.enqueue(value);
      onEnd?.();
      controller.close();
    },
    cancel: onCancel,
  });

/** Types of chunks that begin or end a message. The transport sends these chunks itself. */
const FRAMES = ["start", "start-step", "finish-step", "finish"];
const NAMES = `error abort message-metadata steering-message reset-step custom file reasoning-file
  source-url source-document tool-input-start tool-input-delta tool-input-available
  tool-input-error tool-approval-request tool-approval-response tool-output-available
  tool-output-error tool-output-denied text-start text-delta text-end reasoning-start
  reasoning-delta reasoning-end`;
/** Types of chunks in the AI SDK. The types of an app's own chunks begin with `data-`. */
const CHUNKS = new Set([...FRAMES, ...NAMES.split(/\s+/)]);
const isChunk = ({ type }) => CHUNKS.has(type) || String(type).startsWith("data-");
/**
 * Types of chunks that continue a part. If no chunk has begun the part, the AI SDK ends the reply.
 */
const CONTINUING = /^(?!data-).*-(delta|end)$|^tool-output-/;

/**
 * Return the chunk for an item of a stream. An item becomes a `data-item` part if it is not a
 * chunk, or if it continues a part that is not in `begun`.
 */
function chunkOf(item, begun) {
  const { type, id, toolCallId } = item ?? {};
  const part = `${String(type).split("-")[0]} ${id ?? toolCallId}`;
  const isFirst = !CONTINUING.test(type);
  if (!item || !isChunk(item) || !(isFirst || begun.has(part)))
    return { type: "data-item", data: item };
  if (type.endsWith("-end")) begun.delete(part);
  else if (isFirst) begun.add(part);
  return item;
}

/**
 * Yield the AI SDK's chunks for a message. `parts` are the parts that the message already has.
 * `tools` are the parts with tool calls that the AI SDK already has, and whose outputs may follow.
 */
async function* chunksOf(job, pieces, { id: messageId, parts = [], tools = [] }) {
  let open = null; // id of the text part that grows
  let hasContent = false;
  const called = tools.filter(({ toolCallId }) => toolCallId);
  const begun = new Set();
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
    const { attempt, from, text, items } = next.value;
    if (from === 0) {
      begun.clear();
      for (const { toolCallId } of called) begun.add(`tool ${toolCallId}`);
    }
    const chunks = (items ?? []).map((item) => chunkOf(item, begun));
    // A new attempt. If a version of the AI SDK does not know this chunk, it keeps the old part,
    // which `textOf` removes.
    if (from === 0 && hasContent) yield* [...end(), { type: "reset-step" }];
    hasContent = Boolean(text) || chunks.length > 0 || (hasContent && from > 0);
    yield* chunks.filter(({ type }) => !FRAMES.includes(type));
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
 * Return the messages of a chat for the page that opens it: These are the messages in the payload
 * of the newest job, and its reply if the job has ended. `resume` reads a reply that is not
 * complete yet.
 */
export async function chatMessages(client, jobType, chatId, { stream = STREAM, ...options } = {}) {
  const job = await newestJob(client, jobType, chatId, options);
  if (!job) return [];
  const messages = messagesIn(job);
  if (!ENDED.has(job.status)) return messages;
  const continued = continuedBy(job);
  // read before the stream of the AI SDK begins, because this stream drops errors of its source
  const pieces = await storedPieces(client, job, stream, options);
  const chunks = chunksOf(job.id, pieces, continued ?? { id: job.id });
  let reply;
  for await (reply of readUIMessageStream({ stream: streamOf(chunks) }));
  if (!reply.parts.some(({ type }) => type !== "step-start")) return messages;
  return [...(continued ? messages.slice(0, -1) : messages), reply];
}

/** Return a message's text, without the text of attempts that were retried. */
export function textOf({ parts }) {
  const texts = parts.filter(({ type }) => type === "text");
  const source = (part) => part.providerMetadata?.minutehand ?? {};
  const isReplaced = (part) =>
    texts.some(
      (other) =>
        source(other).job === source(part).job && source(other).attempt > source(part).attempt,
    );
  return texts
    .filter((part) => !isReplaced(part))
    .map(({ text }) => text)
    .join("");
}

/** Build the default payload: It contains the messages in the form that models take. */
const defaultPayload = ({ messages }) => ({
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

/** Return the message that the job's reply continues, or null if the reply is a new message. */
function continuedBy(job) {
  const last = messagesIn(job).at(-1);
  return last?.role === "assistant" ? last : null;
}

/** Read the newest job of a chat with its payload. Returns null if the chat has no job. */
async function newestJob(client, job_type, session_id, { schema, workspace_id }) {
  const parameters = { p_filter: { session_id, job_type, workspace_id }, p_limit: 1 };
  const isWhole = (data) => Array.isArray(data?.jobs);
  const { jobs } = await call(client, schema, "list_jobs", parameters, { isWhole });
  return jobs.length > 0 ? call(client, schema, "get_job", { p_job_id: jobs[0].id }) : null;
}

/**
 * Read the pieces of a stream of a job that has ended. The iterator yields the pieces and returns
 * the job.
 */
async function storedPieces(client, job, stream, { schema }) {
  const pieces = [];
  for (let from = 0, more = true; more; ) {
    const parameters = { p_job_id: job.id, p_stream: stream, p_from: from };
    const page = await call(client, schema, "job_output", parameters);
    pieces.push({ ...page, from });
    ({ next: from, more } = page);
  }
  return (function* () {
    yield* pieces;
    return job;
  })();
}
