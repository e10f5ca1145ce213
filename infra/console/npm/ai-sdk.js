// A `ChatTransport` for `useChat` of the AI SDK. Each reply is a job, and the parts of the reply
// are the content of one stream of the job.

import { readUIMessageStream } from "ai";
import { cancel, enqueue } from "./jobs/changes.js";
import { call } from "./jobs/client.js";
import { outputOf } from "./jobs/pieces.js";
import { ENDED } from "./jobs/ended.js";

const STREAM = "reply";
/**
 * Time in milliseconds after the end of a reply, during which the messages that a page has loaded
 * may still lack the reply.
 */
const RECENT_MS = 60_000;

/**
 * Transport that creates a job of one job type for each reply. The session id of each job is the id
 * of the chat.
 *
 * A job continues when its page closes. If a chat resumes, the chat reads the reply from the
 * beginning. An abort by the chat cancels the job, unless the chat aborts because it resumes.
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
    // If a request for a new message gets no response, send the request again. The idempotency key
    // of the request prevents a second job.
    const isNew = trigger === "submit-message" && !messageId && last?.role === "user";
    const options = {
      ...this.#options,
      session_id: chatId,
      idempotency_key: isNew ? `${chatId}:${last.id}` : undefined,
    };
    const send = async () => (await enqueue(this.#client, this.#jobType, payload, options)).job;
    const sent = send().catch((error) => (isNew && error.isAway ? send() : Promise.reject(error)));
    this.#cancelIfStopped(chatId, abortSignal, sent);
    const job = await sent;
    // A reply that continues a message uses the id of that message, because with another id the
    // chat would show a second message.
    const message =
      last?.role === "assistant" ? { id: last.id, tools: last.parts } : { id: job.id };
    return this.#chunks(job, message, abortSignal);
  }

  async reconnectToStream({ chatId, abortSignal }) {
    this.#resumes.set(chatId, this.#resumesOf(chatId) + 1);
    const found = newestJob(this.#client, this.#jobType, chatId, this.#options);
    this.#cancelIfStopped(chatId, abortSignal, found);
    const job = await found;
    if (!job || this.#finished.has(job.id)) return null;
    // Read a failed reply in every case, because the messages that a page has loaded contain no
    // error.
    const isOver = ENDED.has(job.status) && job.status !== "failed";
    const isOld = Date.parse(job.finished_at) < Date.now() - RECENT_MS;
    if (isOver && (isOld || !job.streams?.[this.#stream])) return null;
    const last = continued(messagesIn(job));
    const options = { ...this.#options, stream: this.#stream };
    const [message] = await withOutput(this.#client, chatId, last ? [last] : [], options);
    return this.#chunks(job, message ?? { id: job.id }, abortSignal);
  }

  #resumesOf(chatId) {
    return this.#resumes.get(chatId) ?? 0;
  }

  /**
   * If the chat aborts, cancel the job, unless the chat resumes in the same event-loop task.
   */
  #cancelIfStopped(chatId, signal, sent) {
    const { schema } = this.#options;
    const stop = () => {
      const before = this.#resumesOf(chatId);
      setTimeout(() => {
        if (this.#resumesOf(chatId) !== before) return;
        // ignore errors, which mean that the job does not exist or has ended
        sent.then((job) => job && cancel(this.#client, job.id, { schema })).catch(() => {});
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

/** Convert an async iterator to a `ReadableStream`. */
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

/**
 * Types of the AI SDK's chunks that begin or end a message. `JobChatTransport` sends chunks of
 * these types itself.
 */
const FRAMES = ["start", "start-step", "finish-step", "finish"];
const NAMES = `error abort message-metadata steering-message reset-step custom file reasoning-file
  source-url source-document tool-input-start tool-input-delta tool-input-available
  tool-input-error tool-approval-request tool-approval-response tool-output-available
  tool-output-error tool-output-denied text-start text-delta text-end reasoning-start
  reasoning-delta reasoning-end`;
/**
 * Types of chunks that the AI SDK knows. An app may also send chunks of its own types, which begin
 * with `data-`.
 */
const CHUNKS = new Set([...FRAMES, ...NAMES.split(/\s+/)]);
const isChunk = ({ type }) => CHUNKS.has(type) || String(type).startsWith("data-");
/**
 * Types of chunks that continue a part of a message. The AI SDK ends the reply with an error if no
 * earlier chunk has begun the part.
 */
const CONTINUING = /^(?!data-).*-(delta|end)$|^tool-(output|approval)-/;
const UNFINISHED = "The job ended before the tool";
/** Types of the last chunk of a tool call that has no output yet. */
const PENDING = /^tool-(input-(start|delta|available)|approval-request)/;

/**
 * Return the AI SDK's chunk for an item of a job's stream. If the item is not a chunk, or continues
 * a part that is not in `begun`, return a `data-item` chunk. `begun` maps each part of the message
 * that has begun to the part's last chunk.
 */
function chunkOf(item, begun) {
  const { type, id, toolCallId, approvalId } = item ?? {};
  const part =
    type === "tool-approval-response"
      ? `approval ${approvalId}`
      : `${String(type).split("-")[0]} ${id ?? toolCallId}`;
  if (!item || !isChunk(item) || (CONTINUING.test(type) && !begun.has(part)))
    return { type: "data-item", data: item };
  if (type.endsWith("-end")) begun.delete(part);
  else begun.set(part, item);
  if (type === "tool-approval-request") begun.set(`approval ${approvalId}`, {}); // for its response
  return item;
}

/**
 * Yield an error or denial for each tool call that has no output when the job ends, because the
 * ended job accepts no answer. An approved tool call gets an error, because the tool may have run.
 * A tool that runs in the page is an exception: if the job has completed, its call stays open,
 * because the page may send the tool's output with the next job.
 */
function* closing(begun, { id, status }) {
  for (const { type, toolCallId, approvalId } of begun.values()) {
    const isOpen = toolCallId && PENDING.test(type);
    const isOfJob = `${approvalId}`.startsWith(id);
    if (!isOpen || (status === "completed" && !isOfJob)) continue;
    const response = begun.get(`approval ${approvalId}`);
    if (approvalId && !response?.approved) yield { type: "tool-output-denied", toolCallId };
    else yield { type: "tool-output-error", toolCallId, errorText: UNFINISHED };
  }
}

/** Return the chunks from which the AI SDK builds a part of a message. */
function chunksOfPart(part, id) {
  const { type, text, providerMetadata, toolCallId, state, approval } = part;
  if (type === "step-start") return [{ type: "start-step" }];
  if (type === "text" || type === "reasoning") {
    const step = (name) => ({ type: `${type}-${name}`, id, delta: text, providerMetadata });
    return [step("start"), step("delta"), step("end")];
  }
  if (!toolCallId) return [part];
  const toolName = part.toolName ?? type.slice("tool-".length);
  const called = { ...part, type: "tool-input-available", toolName, dynamic: "toolName" in part };
  const asked = { type: "tool-approval-request", toolCallId, approvalId: approval?.id };
  const answered = { ...asked, type: "tool-approval-response", approved: approval?.approved };
  const ended = state.startsWith("output-") && { ...part, type: `tool-${state}` };
  return [called, approval && asked, approval && "approved" in approval && answered, ended].filter(
    Boolean,
  );
}

/**
 * Yield the AI SDK's chunks for a message. `parts` are the parts that the message already contains.
 * `tools` are the parts with tool calls that the AI SDK already knows, and whose outputs may
 * follow.
 */
async function* chunksOf(job, pieces, { id: messageId, parts = [], tools = parts }) {
  let open = null; // id of the text part that grows
  let hasContent = false;
  const called = tools.filter(({ toolCallId }) => toolCallId);
  const begun = new Map();
  /** Add the attempt to a chunk that begins a text, so that `textOf` finds the replaced texts. */
  const marked = (chunk, attempt) => {
    const providerMetadata = { ...chunk.providerMetadata, minutehand: { job, attempt } };
    return chunk.type === "text-start" ? { ...chunk, providerMetadata } : chunk;
  };
  const begin = (attempt) => {
    open = `attempt-${attempt}`;
    return marked({ type: "text-start", id: open }, attempt);
  };
  const end = () => {
    const ended = open === null ? [] : [{ type: "text-end", id: open }];
    open = null;
    return ended;
  };

  yield { type: "start", messageId };
  for (const [n, part] of parts.entries()) yield* chunksOfPart(part, `before-${n}`);
  yield { type: "start-step" };
  let next;
  while (!(next = await pieces.next()).done) {
    const { attempt, from, text, items } = next.value;
    if (from === 0) {
      begun.clear();
      for (const { toolCallId, approval } of called)
        begun.set(`tool ${toolCallId}`, {}).set(`approval ${approval?.id}`, {});
    }
    const chunks = (items ?? []).map((item) => marked(chunkOf(item, begun), attempt));
    // Discard the message's old part if a new attempt of the job has begun the stream again. A
    // version of the AI SDK that does not know the chunk `reset-step` keeps the old part, but
    // `textOf` leaves out its text.
    if (from === 0 && hasContent) yield* [...end(), { type: "reset-step" }];
    hasContent = Boolean(text) || chunks.length > 0 || (hasContent && from > 0);
    yield* chunks.filter(({ type }) => !FRAMES.includes(type));
    if (!text) continue;
    if (open === null) yield begin(attempt);
    yield { type: "text-delta", id: open, delta: text };
  }
  yield* [...end(), ...closing(begun, next.value), { type: "finish-step" }];
  const { status, error_message: errorText } = next.value;
  if (status === "failed") yield { type: "error", errorText: errorText ?? "The job failed" };
  else yield { type: "finish", finishReason: status === "completed" ? "stop" : "other" };
}

/**
 * Return the messages of a chat for the page that opens the chat. The result contains the messages
 * in the payload of the chat's newest job, and the job's reply if the job has ended. The chat reads
 * an unfinished reply when the chat resumes.
 */
export async function chatMessages(client, jobType, chatId, { stream = STREAM, ...options } = {}) {
  const job = await newestJob(client, jobType, chatId, options);
  if (!job) return [];
  const ended = ENDED.has(job.status) ? job : null;
  return withOutput(client, chatId, messagesIn(job), { ended, stream, ...options });
}

/**
 * Add to the messages the parts that the jobs of the chat have streamed, because a payload with
 * `content` does not contain these parts. If `ended` is a job, also add the reply of this job.
 */
async function withOutput(client, chatId, messages, { ended, stream, schema }) {
  const ids = messages.filter(hasTextOnly).map(({ id }) => id);
  if (ended) ids.push(ended.id);
  // read the output before the AI SDK's stream begins, because the stream would ignore an error of
  // the read
  const output = await storedOutput(client, chatId, ids, schema);
  const read = async (job, start) => {
    const pieces = output.filter(
      ({ job_id, stream: name }) => job_id === job.id && name === stream,
    );
    let reply;
    const source = streamOf(chunksOf(job.id, returning(pieces, job), start));
    for await (reply of readUIMessageStream({ stream: source }));
    return reply;
  };
  const shown = [];
  for (const message of messages) {
    const { id } = message;
    shown.push(hasTextOnly(message) ? withParts(message, await read({ id }, { id })) : message);
  }
  if (!ended) return shown;
  const last = continued(shown);
  const reply = await read(ended, last ?? { id: ended.id });
  if (!reply.parts.some(({ type }) => type !== "step-start")) return shown;
  return [...(last ? shown.slice(0, -1) : shown), reply];
}

const hasTextOnly = ({ role, parts }) =>
  role === "assistant" && parts.length === 1 && parts[0].type === "text";

/**
 * Return a message with the parts in a job's output. If a later job has added text to the message,
 * append this text to the parts. If the message's text does not begin with the output's text,
 * return the message unchanged.
 */
function withParts(message, { parts }) {
  const text = textOf(message);
  const streamed = textOf({ parts });
  if (!text.startsWith(streamed)) return message;
  const added = text.slice(streamed.length);
  return { ...message, parts: added ? [...parts, textPart(added)] : parts };
}

/**
 * Deny each tool call that waits for approval, end each approved tool call that has no output with
 * an error, and return the messages. A chat needs this function after `stop()`, because the AI SDK
 * then ignores the chunks that would end the tool calls.
 */
export const closeQuestions = (messages) =>
  messages.map((message) => {
    const close = (part) => {
      if (!/^approval-/.test(part.state)) return part;
      const error = part.approval?.approved && { state: "output-error", errorText: UNFINISHED };
      return { ...part, state: "output-denied", ...error };
    };
    return { ...message, parts: message.parts.map(close) };
  });

/** Return the text of a message. The text of replaced attempts is left out. */
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

/** Build the default payload, with the messages in the form that language models accept. */
const defaultPayload = ({ messages }) => ({
  messages: messages.map((message) => {
    const { id, role, parts } = message;
    if (role === "user" && parts.some(({ type }) => type === "file"))
      throw new Error("JobChatTransport needs the option `payload` for messages with files");
    return { id, role, content: textOf(message) };
  }),
});

const textPart = (text) => ({ type: "text", text });

/**
 * Return the messages in the payload of a job. Each message in the payload has `parts`, or has
 * `content`, which is a text or a list of texts as in the input of language models.
 */
function messagesIn({ payload }) {
  const said = Array.isArray(payload?.messages) ? payload.messages : [];
  const messages = said.flatMap(({ content, ...message }, n) => {
    const { id = `message-${n}`, role, parts } = message;
    if (Array.isArray(parts)) return { ...message, id };
    const texts = Array.isArray(content) ? content.map(({ text = "" }) => text) : [content ?? ""];
    return role === "tool" ? [] : { id, role, parts: [textPart(texts.join(""))] };
  });
  return [...closeQuestions(messages.slice(0, -1)), ...messages.slice(-1)];
}

/** Return the message that the reply of a job continues, or null if the reply is a new message. */
function continued(messages) {
  const last = messages.at(-1);
  return last?.role === "assistant" ? last : null;
}

/**
 * Read the output of the chat's jobs with the given ids, as pieces in the order of their offsets.
 */
async function storedOutput(client, p_session_id, ids, schema) {
  const pieces = [];
  const p_after = Object.fromEntries(ids.map((id) => [id, {}]));
  for (let isOver = ids.length === 0; !isOver; ) {
    const parameters = { p_session_id, p_after };
    const { jobs, more } = await call(client, schema, "session_output", parameters, {
      isWhole: hasJobs,
    });
    for (const { job_id, streams } of jobs)
      for (const page of streams) {
        const { stream, attempt, next } = page;
        pieces.push({ ...page, job_id });
        p_after[job_id] = { ...p_after[job_id], [stream]: { attempt, next } };
      }
    isOver = !more;
  }
  return pieces;
}

/** Yield the pieces, and then return their job, as `outputOf` does. */
function* returning(pieces, job) {
  yield* pieces;
  return job;
}

/** Read the newest job of a chat with the job's payload. Return null if the chat has no job. */
async function newestJob(client, job_type, session_id, { schema, workspace_id }) {
  const parameters = { p_filter: { session_id, job_type, workspace_id }, p_limit: 1 };
  const { jobs } = await call(client, schema, "list_jobs", parameters, { isWhole: hasJobs });
  return jobs.length > 0 ? call(client, schema, "get_job", { p_job_id: jobs[0].id }) : null;
}
const hasJobs = (data) => Array.isArray(data?.jobs);
