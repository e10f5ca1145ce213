import type { ChatTransport, UIMessage } from "ai";
import type { Client, EnqueueOptions, JobType, Json, PayloadOf } from "./index.js";

/** What a job's payload is made of. */
export type Said<M extends UIMessage = UIMessage> = {
  chatId: string;
  messages: M[];
  trigger: "submit-message" | "regenerate-message";
  /** As `sendMessage(message, { body, metadata })` has it. */
  body: object | undefined;
  metadata: unknown;
};

export type JobChatOptions<
  T extends JobType = JobType,
  M extends UIMessage = UIMessage,
> = EnqueueOptions & {
  workspace_id: string;
  schema?: string | undefined;
  /** The stream that has the words, `reply` by default. */
  stream?: string | undefined;
  /** By default `{ messages: [{ id, role, content }] }`. */
  payload?: ((said: Said<M>) => PayloadOf<T> | Promise<PayloadOf<T>>) | undefined;
};

/**
 * For `new Chat({ id, messages, transport })` and `useChat({ chat, resume: true })`.
 *
 * Each answer is a job whose session is the chat's id. `stop()` cancels it; leaving the page, or
 * resuming twice, does not.
 */
export declare class JobChatTransport<M extends UIMessage = UIMessage> implements ChatTransport<M> {
  constructor(client: Client, jobType: JobType, options: JobChatOptions<JobType, M>);
  readonly resumeStreamIsReplay: boolean;
  sendMessages: ChatTransport<M>["sendMessages"];
  reconnectToStream: ChatTransport<M>["reconnectToStream"];
}

/** The messages of a chat so far, but for an answer that is being written: that comes by `resume`. */
export declare function chatMessages<M extends UIMessage = UIMessage>(
  client: Client,
  jobType: JobType,
  chatId: string,
  options?: {
    workspace_id?: string | undefined;
    schema?: string | undefined;
    stream?: string | undefined;
  },
): Promise<M[]>;

/** A message's text, without what an attempt said that began again. */
export declare function textOf(message: Pick<UIMessage, "parts">): string;
