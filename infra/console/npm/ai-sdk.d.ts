import type { ChatTransport, UIMessage } from "ai";
import type { Client, EnqueueOptions, JobType, JobTypes, PayloadOf, StreamOf } from "./index.js";

/** Input of the option `payload`, which builds the payload of a job. */
export type Said<M extends UIMessage = UIMessage> = {
  chatId: string;
  messages: M[];
  trigger: "submit-message" | "regenerate-message";
  /**
   * The options `body` and `metadata` of the chat's call `sendMessage(message, { body, metadata
   * })`.
   */
  body: object | undefined;
  metadata: unknown;
};

export type JobChatOptions<
  T extends JobType = JobType,
  M extends UIMessage = UIMessage,
> = EnqueueOptions & {
  workspace_id: string;
  schema?: string | undefined;
  /** Name of the job's stream that contains the text of the reply. Default `reply`. */
  stream?: StreamOf<T> | undefined;
} & PayloadOption<T, (input: Said<M>) => Built<T> | Promise<Built<T>>>;

/**
 * Payload of a job type. If the job type is not declared in `JobTypes`, the payload may contain the
 * parts of messages.
 */
type Built<T extends JobType> = T extends keyof JobTypes
  ? PayloadOf<T>
  : { [name: string]: unknown };
/** Payload that `JobChatTransport` builds if the option `payload` is missing. */
type DefaultPayload = { messages: { id: string; role: string; content: string }[] };
/**
 * Option that builds the payload of a job. The option `payload` is required unless the job type
 * accepts `DefaultPayload`.
 */
type PayloadOption<T extends JobType, Build> =
  DefaultPayload extends PayloadOf<T> ? { payload?: Build | undefined } : { payload: Build };

/**
 * Transport for `new Chat({ id, messages, transport })` and `useChat({ chat, resume: true })` of
 * the AI SDK.
 *
 * Each reply is a job whose session id is the id of the chat. The chat's function `stop()` cancels
 * the job. The job continues if the page closes, or if the chat resumes twice.
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
 * Return the messages of a chat. The messages do not contain an incomplete reply, because the chat
 * reads this reply when the chat resumes.
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
 * Deny each tool call that waits for approval, end each approved tool call that has no output with
 * an error, and return the messages. Call `closeQuestions` after the chat's `stop()`.
 */
export declare function closeQuestions<M extends UIMessage = UIMessage>(messages: M[]): M[];

/** Return the text of a message, without the text that failed attempts of the job wrote. */
export declare function textOf(message: Pick<UIMessage, "parts">): string;
