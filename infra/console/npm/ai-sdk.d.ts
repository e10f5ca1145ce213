import type { ChatTransport, UIMessage } from "ai";
import type { Client, EnqueueOptions, JobType, JobTypes, PayloadOf, StreamOf } from "./index.js";

/** Input from which the `payload` option builds a payload. */
export type Said<M extends UIMessage = UIMessage> = {
  chatId: string;
  messages: M[];
  trigger: "submit-message" | "regenerate-message";
  /** `body` and `metadata` of `sendMessage(message, { body, metadata })`. */
  body: object | undefined;
  metadata: unknown;
};

export type JobChatOptions<
  T extends JobType = JobType,
  M extends UIMessage = UIMessage,
> = EnqueueOptions & {
  workspace_id: string;
  schema?: string | undefined;
  /** Name of the stream that has the reply's text. Default `reply`. */
  stream?: StreamOf<T> | undefined;
} & PayloadOption<T, (input: Said<M>) => Built<T> | Promise<Built<T>>>;

/** Payload of a type. Without a declaration, it may have parts of messages. */
type Built<T extends JobType> = T extends keyof JobTypes
  ? PayloadOf<T>
  : { [name: string]: unknown };
/** Payload that the transport builds by default. */
type DefaultPayload = { messages: { id: string; role: string; content: string }[] };
/** Builds the payload. Required unless the job type accepts `DefaultPayload`. */
type PayloadOption<T extends JobType, Build> =
  DefaultPayload extends PayloadOf<T> ? { payload?: Build | undefined } : { payload: Build };

/**
 * Transport for `new Chat({ id, messages, transport })` and `useChat({ chat, resume: true })`.
 *
 * Each reply is a job whose session is the chat's id. `stop()` cancels the job. Closing the page,
 * or resuming twice, does not cancel the job.
 */
export declare class JobChatTransport<M extends UIMessage = UIMessage, T extends JobType = JobType>
  implements ChatTransport<M>
{
  constructor(client: Client, jobType: T, options: JobChatOptions<T, M>);
  readonly resumeStreamIsReplay: boolean;
  sendMessages: ChatTransport<M>["sendMessages"];
  reconnectToStream: ChatTransport<M>["reconnectToStream"];
}

/**
 * Return the messages of a chat, without a reply that is incomplete, because `resume` reads this
 * reply.
 */
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

/**
 * Return messages without open questions, after `stop()`: A tool call that waits for its approval
 * is denied.
 */
export declare function closeQuestions<M extends UIMessage = UIMessage>(messages: M[]): M[];

/** Return the text of a message, without the text of attempts that were retried. */
export declare function textOf(message: Pick<UIMessage, "parts">): string;
